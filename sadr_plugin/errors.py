"""Every error that the plugin itself raises.

Errors from the toolkit, the model or a hook pass through unchanged. Each message of the plugin
names what is wrong (file, key, module, prompt) and says how to fix it.
"""

from __future__ import annotations


class SadrError(Exception):
    """Base class of the plugin's own errors."""


class ConfigError(SadrError, ValueError):
    """A setting that cannot be used: an unknown key, a wrong type or an impossible number."""


class DataError(SadrError, ValueError):
    """A file of records that cannot be read, or a malformed record."""


class EvaluationError(SadrError):
    """An evaluation cannot continue, for example because an editor did not undo an edit."""


class ChangedModelError(EvaluationError):
    """A check shows that the model has changed, so its results are not reliable."""


class UnsupportedModelError(SadrError):
    """The plugin cannot read the model's attention, or cannot use it."""


class BusyModelError(SadrError):
    """Another edit with SADR is using the model. A model takes part in one edit at a time."""


class UnsupportedLoopError(SadrError):
    """An editor's optimisation loop does not have the form that the loss term needs."""


class PositionError(SadrError):
    """The subject's token or the prediction position was not found in the prompt or the batch."""


class PenaltyError(SadrError, ArithmeticError):
    """A loss term or an attention row became NaN or infinite. The edit is abandoned."""


class AttachmentError(SadrError):
    """A declaration of an adapter or a plugin does not fit the installed toolkit or its hook."""
