"""Measuring edits as the paper does: records, scores, arms, and what they add up to."""

from .scoring import Scorer, answer_probability

__all__ = ["Scorer", "answer_probability"]
