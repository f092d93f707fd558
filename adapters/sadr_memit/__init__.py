"""SADR for the research code of MEMIT's paper, and for code that is derived from it.

The editors are:

- ROME and MEMIT of kmeng01/memit;
- ROME, MEMIT, AlphaEdit and NSE of jianghoucheng/AlphaEdit;
- PMET of xpq-tech/PMET.

This code runs in its own folder, so its packages are top-level packages with common names
(``rome``, ``memit``, ``nse``, ``pmet``). A function that does not have the parameters declared here
belongs to another project and is left alone. EasyEdit's editors come from this code, and their
arguments have the same form.
"""

from __future__ import annotations

from .declarations import EDIT_POINTS, sadr_edit_points
from .hparams_files import sadr_read_hparams

__all__ = ["EDIT_POINTS", "sadr_edit_points", "sadr_read_hparams"]
