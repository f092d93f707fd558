"""SADR for EasyEdit: its PyPI release and its main branch."""

from .editors import sadr_edit_points, sadr_hparams_base

__all__ = ["sadr_edit_points", "sadr_hparams_base"]
