"""What hooks are told of an edit, `Step` and `Report`, and where the last reports are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from .hookspecs import hookimpl


@dataclass(frozen=True)
class Step:
    """One step of an edit's optimisation, as hooks receive it.

    Attributes:
        index: steps are counted from 0; at 0 the vector is still zero and so is the penalty,
            but in an edit without `Edit.zero_start`.
        loss: the toolkit's loss with the terms in it.
        terms: each term's value before its weight, by name: ``drift`` is SADR's.
        selected: share of (layer, prompt, head) triples that were restricted, 0 to 1.
        target: probability of the target, 0 to 1, averaged as for ``stop_at``; None if the
            adapter does not tell the target.
    """

    index: int
    loss: float
    terms: Mapping[str, float]
    selected: float
    target: float | None = None

    @property
    def penalty(self) -> float:
        """The drift penalty before γ."""
        return self.terms["drift"]


@dataclass(frozen=True)
class Report:
    """An edit that has ended, as hooks receive it.

    Attributes:
        editor: the editor's name.
        layer: the edited layer.
        weights: the weight of each term of the loss, by name: that of ``drift`` is γ.
        steps: every step, in order.
        seconds: wall time of the loop, the plugin's own work included.
        reused: the share of layers times tokens that was left out of the last forward, 0 to 1;
            see `SadrConfig.reuse`.
    """

    editor: str
    layer: int
    weights: Mapping[str, float]
    steps: tuple[Step, ...]
    seconds: float
    reused: float = 0.0

    @property
    def gamma(self) -> float:
        """The weight γ of the drift penalty that was in force."""
        return self.weights["drift"]


class LastReport:
    """A plugin that remembers the last edit that ended without an exception."""

    def __init__(self) -> None:
        self.report: Report | None = None

    @hookimpl
    def sadr_edit_finished(self, report: Report) -> None:
        """Remember it."""
        self.report = report


class _Collector:
    """A plugin that puts every report into a list."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    @hookimpl
    def sadr_edit_finished(self, report: Report) -> None:
        self.reports.append(report)


def last_report() -> Report | None:
    """The report of the process's last edit with SADR that ended without an exception.

    None if there was none: then no edit so far has had SADR.
    """
    from .plugins import plugin_manager

    found = plugin_manager().get_plugin("last-report")
    assert isinstance(found, LastReport)
    return found.report


@contextmanager
def reports() -> Iterator[list[Report]]:
    """Collect the report of each edit with SADR that ends inside a ``with`` block.

    ::

        with sadr_plugin.reports() as found:
            editor.edit(...)
        print(len(found), found[-1].steps[-1].penalty)
    """
    from .plugins import plugin_manager

    collector, manager = _Collector(), plugin_manager()
    manager.register(collector)
    try:
        yield collector.reports
    finally:
        manager.unregister(collector)
