"""Every error the plugin raises on its own account.

An error from the toolkit, the model or a hook passes through unchanged; these are only
for what the plugin itself finds wrong. Each message names the thing at fault (file, key,
module, prompt) and the remedy.
"""

from __future__ import annotations


class SadrError(Exception):
    """Base class of the plugin's own errors."""


class ConfigError(SadrError, ValueError):
    """A ``sadr:`` value that cannot be used: unknown key, wrong type, impossible number."""


class DataError(SadrError, ValueError):
    """A file of records that cannot be read, or a record that is malformed."""


class EvaluationError(SadrError):
    """An evaluation cannot go on: an editor did not take an edit back, say."""


class ChangedModelError(EvaluationError):
    """Looked at as a whole, the model is not what it was: what it showed is not to be trusted."""


class UnsupportedModelError(SadrError):
    """The model keeps its attention where the tracer cannot see it."""


class BusyModelError(SadrError):
    """The model is being edited with SADR already; it can be one edit's at a time."""


class UnsupportedLoopError(SadrError):
    """An editor's optimisation loop does not have the form the loss term is written into."""


class PositionError(SadrError):
    """The subject's or the prediction token cannot be found in the prompt or the batch."""


class PenaltyError(SadrError, ArithmeticError):
    """The penalty became NaN or infinite; the edit is abandoned."""


class AttachmentError(SadrError):
    """An adapter's declaration does not fit the toolkit that is installed."""
