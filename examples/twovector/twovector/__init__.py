"""A toolkit with one editor. It finds a vector for a layer's attention and one for its MLP."""

from .editor import Hparams, find_vectors

__all__ = ["Hparams", "find_vectors"]
