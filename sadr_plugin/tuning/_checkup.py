"""The check-up: tests of the editor with the settings of its file, before the search.

The check-up does not guess. If a test fails, it changes each setting that could be the cause, one
at a time. It then names the changes that help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from ..evaluation import Editor, Result
from ._space import nearest_layer
from ._trials import PLAIN, PLAIN_SETUP, Setup

STOP = 0.75
"""The ``stop_at`` of the test with an early stop."""

REACHES = 0.5
"""The probability that the target needs at the end of a loop, as the mean over the edits."""

TAKES = 0.9
"""The share of right answers that a test needs, for the edit itself and for neighbours."""

HELPS = 0.1
"""The smallest improvement of a share or a probability that counts as help."""

Run = Callable[[str, Setup], Sequence[Result]]
"""Edits a few records with a named setup, and returns the results."""


@dataclass(frozen=True)
class Finding:
    """The result of one test.

    Attributes:
        text: the result, and what to change.
        good: whether the test passed.
        change: the settings of the editor that gave the best result. The search begins with them.
    """

    text: str
    good: bool
    change: Mapping[str, Any] = field(default_factory=dict)


def check_up(editor: Editor, run: Run) -> list[Finding]:
    """Test whether edits succeed, alone and with an early stop, and whether neighbours stay right.

    If all plain edits fail with an error, the tests end there.

    Args:
        editor: the editor with the settings of the file.
        run: edits a few records, always the same ones.

    Returns:
        The editor's own remarks, then the result of each test.
    """
    found = [Finding(remark, False) for remark in editor.remarks()]
    plain = run(PLAIN, PLAIN_SETUP)
    failed = [result.error for result in plain if result.error is not None]
    if len(failed) == len(plain):
        return [*found, Finding(f"the editor fails: {failed[0]}", False)]
    changes, steps = _Changes(editor, run), steps_of(plain)
    found += _takes(plain, changes, steps)
    stopped = run("stopped", Setup(sadr=_stop(steps)))
    made = _right(stopped, "efficacy")
    if made < TAKES <= _right(plain, "efficacy"):
        text = f"with stop_at {STOP}, only {made:.0%} of the edits succeed; try a higher stop_at"
        found.append(Finding(text, False))
    elif made >= TAKES:
        found.append(Finding(f"with stop_at {STOP}, {made:.0%} of the edits succeed", True))
    found += _spares(plain, stopped, changes)
    return found


class _Help(NamedTuple):
    """A change that was tried: a description, the result with it, and the changed settings."""

    words: str
    value: float
    settings: Mapping[str, Any]


class _Changes:
    """Changes settings of the editor, one at a time."""

    def __init__(self, editor: Editor, run: Run) -> None:
        self._space, self._values = editor.search_space(), editor.settings()
        self._run = run

    def of(self, *wanted: tuple[str, float]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the changes that the editor allows, each with a description.

        Args:
            *wanted: the name of a setting and a factor. For ``layer``, the number of layers to
                move.
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
        """Edit with changed settings."""
        setup = Setup(settings, sadr)
        return self._run(f"check {setup.key}", setup)


def _takes(plain: Sequence[Result], changes: _Changes, steps: int) -> Iterator[Finding]:
    """Test whether the loop finds a vector, and whether the edits succeed."""
    reached = [result.reached for result in plain if result.reached is not None]
    made = _right(plain, "efficacy")
    if reached and fmean(reached) < REACHES:
        helping = [one for one in _tried(changes, steps) if one.value > fmean(reached) + HELPS]
        text = (
            "the loop does not find a vector: at its last step the target has a probability of "
            f"{fmean(reached):.2f}. "
        )
        yield _finding(text, helping, "{:.2f}")
    elif made < TAKES:
        helping = []
        for words, settings in changes.of(("mom2_update_weight", 0.2), ("layer", -2), ("layer", 2)):
            now = _right(changes.results(settings, {"gamma": 0.0}), "efficacy")
            if now > made + HELPS:
                helping.append(_Help(words, now, settings))
        text = (
            f"the loop finds a vector, but only {made:.0%} of the edits succeed after it is "
            "written into the weights. "
        )
        yield _finding(text, helping)
    else:
        yield Finding(f"{made:.0%} of the plain edits succeed", True)


def _tried(changes: _Changes, steps: int) -> Iterator[_Help]:
    """Yield each change with the probability that the target then has at the end of the loop."""
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
    """Test answers about neighbours, asked without the edited statement.

    Attention drift is not the cause if they break.
    """
    spared = _right(plain, "neighbourhood")
    if not any(result.scores.get("neighbourhood") for result in plain):
        return
    if spared >= TAKES:
        yield Finding(f"answers about neighbours: {spared:.0%} stay right", True)
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
        f"answers about neighbours: only {spared:.0%} stay right. Attention drift is not the "
        "cause, and SADR cannot repair them. "
    )
    yield _finding(text, helping)


def _finding(text: str, helping: Sequence[_Help], form: str = "{:.0%}") -> Finding:
    """Describe a failed test, with all changes that help. The best of them starts the search."""
    if not helping:
        return Finding(text + "No change of a setting helps", False)
    named = "; ".join(f"{one.words} ({form.format(one.value)})" for one in helping)
    best = max(helping, key=lambda one: one.value)
    return Finding(f"{text}These changes help: {named}", False, best.settings)


def _stop(steps: int) -> dict[str, Any]:
    """Return SADR's settings for the test with an early stop."""
    return {"gamma": 0.0, "stop_at": STOP, "num_grad_steps": 2 * steps}


def steps_of(plain: Sequence[Result]) -> int:
    """Return the number of steps that the editor takes with its own settings.

    Args:
        plain: the results of plain edits. The largest number of steps counts.
    """
    return max(1, round(max(result.steps for result in plain)))


def _right(results: Sequence[Result], kind: str) -> float:
    """Return the share of right answers of a kind, or 1 without answers.

    A failed edit counts as one wrong answer.
    """
    values = [float(right > wrong) for r in results for right, wrong in r.scores.get(kind, ())]
    values += [0.0 for result in results if result.error is not None]
    return fmean(values) if values else 1.0
