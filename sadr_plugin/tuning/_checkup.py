"""A check-up of the editor as it is set, before anything is searched: what is to blame where not.

Nothing is guessed: where something is wrong, each setting that could be to blame is changed by
itself, and the change that helps is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from ..evaluation import Editor, Result
from ._space import nearest_layer
from ._trials import Setup

STOP = 0.75

REACHES = 0.5
"""The probability of the target that a loop has to end at."""

TAKES = 0.9
"""The share of edits, or the probability of its answers being right, that counts as well."""

HELPS = 0.1
"""By how much a change has to raise what is wrong."""

Run = Callable[[str, Setup], Sequence[Result]]
"""Edits a few records in a way that has a name; gives their results."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        text: what was found, and what to change.
        good: whether it is as it should be.
        change: settings of the editor with which it was best; the search begins with them.
    """

    text: str
    good: bool
    change: Mapping[str, Any] = field(default_factory=dict)


def check_up(editor: Editor, run: Run) -> list[Finding]:
    """Does the edit take, does it hold after an early stop, is a plain neighbour spared?

    Args:
        editor: as the file sets it.
        run: edits a few records, always the same.
    """
    found = [Finding(remark, False) for remark in editor.remarks()]
    plain = run("plain", Setup(sadr={"gamma": 0.0}))
    failed = [result.error for result in plain if result.error is not None]
    if failed:
        return [*found, Finding(f"the editor fails: {failed[0]}", False)]
    changes, steps = _Changes(editor, run), steps_of(plain)
    found += _takes(plain, changes, steps)
    stopped = run("stopped", Setup(sadr=_stop(steps)))
    made = _right(stopped, "efficacy")
    if made < TAKES <= _right(plain, "efficacy"):
        text = f"stopped at a probability of {STOP}, {made:.0%} of the edits hold: stop later"
        found.append(Finding(text, False))
    elif made >= TAKES:
        found.append(Finding(f"the edit holds after a stop at a probability of {STOP}", True))
    found += _spares(plain, stopped, changes)
    return found


class _Help(NamedTuple):
    """A change that was tried: its words, what came of it, and the editor's settings with it."""

    words: str
    value: float
    settings: Mapping[str, Any]


class _Changes:
    """Settings of the editor changed one at a time."""

    def __init__(self, editor: Editor, run: Run) -> None:
        self._space, self._values = editor.search_space(), editor.settings()
        self._run = run

    def of(self, *wanted: tuple[str, float]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The changes that the editor allows, each with its words.

        Args:
            *wanted: a setting and a factor; for ``layer``, by how many layers.
        """
        for name, change in wanted:
            if name not in self._space:
                continue
            value = self._values[name]
            if name == "layer":
                new = nearest_layer(self._space[name], value, int(change))
            else:
                new = value * change
            if new is not None:
                yield f"{name} {new:g} instead of {value:g}", {name: new}

    def results(self, settings: Mapping[str, Any], sadr: Mapping[str, Any]) -> Sequence[Result]:
        setup = Setup(settings, sadr)
        return self._run(f"check {setup.key}", setup)


def _takes(plain: Sequence[Result], changes: _Changes, steps: int) -> Iterator[Finding]:
    reached = [result.reached for result in plain if result.reached is not None]
    made = _right(plain, "efficacy")
    if reached and fmean(reached) < REACHES:
        helping = [one for one in _tried(changes, steps) if one.value > fmean(reached) + HELPS]
        text = (
            f"the loop does not find a vector: the target ends at a probability of "
            f"{fmean(reached):.2f}. "
        )
        yield _finding(text, helping, "{:.2f}")
    elif made < TAKES:
        helping = []
        for words, settings in changes.of(("mom2_update_weight", 0.2), ("layer", -2), ("layer", 2)):
            now = _right(changes.results(settings, {"gamma": 0.0}), "efficacy")
            if now > made + HELPS:
                helping.append(_Help(words, now, settings))
        text = f"the loop finds a vector, but after it is written {made:.0%} of the edits hold. "
        yield _finding(text, helping)
    else:
        yield Finding(f"the edit takes: {made:.0%} of the edits hold", True)


def _tried(changes: _Changes, steps: int) -> Iterator[_Help]:
    """The probability that the loop ends at with each change."""
    wanted: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        (words, settings, {"gamma": 0.0})
        for words, settings in changes.of(
            ("v_lr", 2.0), ("clamp_norm_factor", 2.0), ("layer", -2), ("layer", 2)
        )
    ]
    more = {"gamma": 0.0, "num_grad_steps": 2 * steps}
    wanted.append((f"{2 * steps} steps instead of {steps}", {}, more))
    for words, settings, sadr in wanted:
        reached = [r.reached for r in changes.results(settings, sadr) if r.reached is not None]
        yield _Help(words, fmean(reached) if reached else 0.0, settings)


def _spares(
    plain: Sequence[Result], stopped: Sequence[Result], changes: _Changes
) -> Iterator[Finding]:
    """Plain neighbours, which no drift of attention concerns."""
    spared = _right(plain, "neighbourhood")
    if not any(result.scores.get("neighbourhood") for result in plain):
        return
    if spared >= TAKES:
        yield Finding(f"plain neighbours are spared: {spared:.0%} are still right", True)
        return
    helping = []
    early = _right(stopped, "neighbourhood")
    if early > spared + HELPS:
        helping.append(_Help("an early stop", early, {}))
    wanted = (
        ("clamp_norm_factor", 0.4),
        ("mom2_update_weight", 4.0),
        ("kl_factor", 4.0),
        ("layer", -2),
        ("layer", 2),
    )
    for words, settings in changes.of(*wanted):
        now = changes.results(settings, {"gamma": 0.0})
        share, made = _right(now, "neighbourhood"), _right(now, "efficacy")
        if share > spared + HELPS and made >= TAKES:
            helping.append(_Help(words, share, settings))
    text = (
        f"plain neighbours break: {spared:.0%} are still right. That is not drift, and SADR cannot "
        "mend it. "
    )
    yield _finding(text, helping)


def _finding(text: str, helping: Sequence[_Help], form: str = "{:.0%}") -> Finding:
    """What is wrong, with all that helps; the search is to begin with what helps most."""
    if not helping:
        return Finding(text + "None of the settings helps", False)
    named = "; ".join(f"{one.words} ({form.format(one.value)})" for one in helping)
    best = max(helping, key=lambda one: one.value)
    return Finding(f"{text}What helps: {named}", False, best.settings)


def _stop(steps: int) -> dict[str, Any]:
    return {"gamma": 0.0, "stop_at": STOP, "num_grad_steps": 2 * steps}


def steps_of(plain: Sequence[Result]) -> int:
    """How many steps the editor takes as it is set, by its plain edits."""
    return max(1, round(max(result.steps for result in plain)))


def _right(results: Sequence[Result], kind: str) -> float:
    """The share of right answers of a kind; an edit that failed has all wrong."""
    values = [float(right > wrong) for r in results for right, wrong in r.scores.get(kind, ())]
    values += [0.0 for result in results if result.error is not None]
    return fmean(values) if values else 1.0
