"""Whether an edit with an hparams file would run with SADR.

The editor, the file and the model are checked by the functions that an edit itself runs: on the
toolkit's own hparams object, and on the model without weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter import EditPoint, Findings, HparamsSummary
from ..errors import ConfigError, SadrError
from ..plugins import editor_names, plugin_manager
from ._blank_model import BlankModel, blank_model
from ._editors import attachabilities
from ._outlook import outlook
from .terminal import silence

if TYPE_CHECKING:
    from torch import nn

    from ..config import SadrConfig


@dataclass
class Verdict:
    """What was found about an hparams file, one text each.

    Attributes:
        faults: why an edit would fail, or would not have SADR.
        remarks: what does not make it fail, and may do harm or surprise the user.
        outlook: the γ and the stop in force, and what is known of such values.
        model: the model in words. None if it cannot be built.
    """

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    outlook: list[str] = field(default_factory=list)
    model: str | None = None

    def add(self, found: Findings) -> None:
        """Add an adapter's findings."""
        self.faults += [*found.faults, *found.lacking]
        self.remarks += found.remarks

    @property
    def is_good(self) -> bool:
        """Whether an edit would run with SADR."""
        return not self.faults


def verdict_on(file: Path, summary: HparamsSummary) -> Verdict:
    """Say whether an edit with the file would run with SADR, as far as can be told without weights.

    Args:
        file: the hparams file.
        summary: what its adapter reads from it.
    """
    from .. import enabled
    from ..config import SadrConfig

    verdict = Verdict(remarks=list(summary.remarks))
    points = [found for found in attachabilities() if is_of(found.point, summary)]
    if not points:
        wanted = summary.editor if summary.hparams is None else (summary.editor, summary.hparams)
        verdict.faults.append(
            f"no adapter declares the editor {wanted!r}; declared are {editor_names()}"
        )
    obstacles = dict.fromkeys(found.obstacle for found in points if found.obstacle is not None)
    verdict.faults += [f"{summary.editor}: {obstacle}" for obstacle in obstacles]
    config = None
    try:
        config = SadrConfig.parse(summary.sadr)
        if config is None:
            verdict.faults.append(f"{file}: does not switch SADR on; add `sadr: true`")
    except ConfigError as error:
        verdict.faults.append(f"{file}: {error}")
    with silence(), enabled():  # the toolkit's class takes a flag only then
        blank = blank_model(summary)
        verdict.model = blank.describe()
        verdict.faults += blank.faults
        verdict.add(_found(summary, blank))
        free = [found.point for found in points if found.obstacle is None]
        calls = _calls(summary, blank, verdict) if free else []
        if blank.model is not None and config is not None:
            _try(free, summary, blank.model, calls, config, verdict)
    if points and config is not None:
        point = points[0].point
        size = None if blank.model is None else blank.parameters()
        verdict.outlook = outlook(point, config, _steps(point, summary, calls, config), size)
    verdict.faults = list(dict.fromkeys(verdict.faults))
    verdict.remarks = list(dict.fromkeys(verdict.remarks))
    return verdict


def expect_no_fault(file: Path, summary: HparamsSummary) -> None:
    """Check the file against the toolkit and the model, before the model's weights are loaded.

    Missing layer statistics are no fault here: a command may make them. A model that cannot be
    built here is no fault either: it may have to be downloaded, or bring its own code.

    Raises:
        ConfigError: there are faults. The message has them all.
    """
    if summary.check is None:
        return
    with silence():
        blank = blank_model(summary)
        brings_code = getattr(getattr(blank.model, "config", None), "auto_map", None)
        if blank.model is None or brings_code:
            return
        faults = _found(summary, blank).faults
    if faults:
        raise ConfigError(f"{file}: {'; '.join(faults)}")


def is_of(point: EditPoint, summary: HparamsSummary) -> bool:
    """Whether a declaration is that of a file's editor."""
    return point.editor == summary.editor and summary.hparams in (None, point.hparams)


def _found(summary: HparamsSummary, blank: BlankModel) -> Findings:
    if summary.check is None:
        return Findings()
    try:
        return summary.check(blank.model)
    except SadrError as error:
        return Findings([str(error)])


def _calls(
    summary: HparamsSummary, blank: BlankModel, verdict: Verdict
) -> Sequence[Mapping[str, Any]]:
    """Return the arguments of the toolkit's calls. The toolkit is imported, as for an edit."""
    if summary.calls is None or blank.model is None or blank.tokenizer is None:
        return []
    try:
        return summary.calls(blank.model, blank.tokenizer)
    except SadrError as error:
        verdict.faults.append(str(error))
        return []


def _try(
    points: Sequence[EditPoint],
    summary: HparamsSummary,
    model: nn.Module,
    calls: Sequence[Mapping[str, Any]],
    config: SadrConfig,
    verdict: Verdict,
) -> None:
    """Run the checks of an edit for each call of each function, up to the first forward."""
    from ..attention._layers import Watch
    from ..attention._tracer import tracer_for
    from ..patching._functions import session_of

    try:
        if not calls:
            watch = Watch(model, summary.layer_template, summary.layer, config.layers)
            with tracer_for(watch, plugin_manager().hook):
                return
        for point in points:
            for arguments in calls:
                session_of(point, dict(arguments), config)
    except SadrError as error:
        verdict.faults.append(str(error))
    except Exception as error:  # of a plugin's term, for example, that asks the model at once
        verdict.remarks.append(
            f"not all checks of an edit can be made without the model's weights: {error!r}"
        )


def _steps(
    point: EditPoint,
    summary: HparamsSummary,
    calls: Sequence[Mapping[str, Any]],
    config: SadrConfig,
) -> int | None:
    if config.num_grad_steps is not None or point.steps_attribute is None:
        return config.num_grad_steps
    found = summary.settings.get(point.steps_attribute)
    for arguments in calls:
        found = getattr(arguments.get(point.hparams_argument), point.steps_attribute, found)
    return found if type(found) is int else None
