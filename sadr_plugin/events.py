"""What hooks learn about an edit: each `Step`, and the `Report` at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of an edit's optimisation, as hooks receive it.

    Attributes:
        index: the number of the step, from 0. At step 0 the vector is zero, and so is the penalty.
            An edit without `Edit.zero_start` is the exception.
        loss: the toolkit's loss with all terms included.
        terms: the value of each term before its weight, by name. ``drift`` is SADR's term.
        selected: the share of (layer, prompt, head) triples that are restricted, 0 to 1.
        target: the probability of the target, 0 to 1, averaged as for ``stop_at``. None if the
            adapter does not give the target.
        likeliest: the share of the rewriting prompts after which every token of the target is the
            model's first choice, 0 to 1. None if the adapter does not give the target.
    """

    index: int
    loss: float
    terms: Mapping[str, float]
    selected: float
    target: float | None = None
    likeliest: float | None = None

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
        weights: the weight of each term of the loss, by name. The weight of ``drift`` is γ.
        steps: every step, in order.
        seconds: wall time of the loop, including the plugin's own work.
        reused: the share of layers times tokens that was left out of the last forward, 0 to 1; see
            `SadrConfig.reuse`.
        stop_at: the probability of the target at which the optimisation should stop. None if the
            user gave none.
    """

    editor: str
    layer: int
    weights: Mapping[str, float]
    steps: tuple[Step, ...]
    seconds: float
    reused: float = 0.0
    stop_at: float | None = None

    @property
    def reached(self) -> float | None:
        """The probability of the target in the last step; see `Step.target`."""
        return self.steps[-1].target if self.steps else None

    @property
    def stopped(self) -> bool | None:
        """Whether the target's probability reached ``stop_at``. None without one."""
        if self.stop_at is None or self.reached is None:
            return None
        return self.reached >= self.stop_at

    @property
    def gamma(self) -> float:
        """The weight γ of the drift penalty in this edit."""
        return self.weights["drift"]
