"""A toolkit with one editor: it finds a vector for attention's output and one for the MLP's."""

from .editor import Hparams, find_vectors

__all__ = ["Hparams", "find_vectors"]
