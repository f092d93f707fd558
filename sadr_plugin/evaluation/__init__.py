"""Measuring edits as the paper does: records, scores, arms, and what they add up to."""

from .probability import answer_probability

__all__ = ["answer_probability"]
