"""The space of the search: the editor's own settings, and the settings under ``sadr:``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..evaluation import Dimension
from ._trials import Setup

if TYPE_CHECKING:
    import optuna

CLAMP = "clamp_norm_factor"
GAMMA = Dimension(0.003, 30.0, log=True)
STOP_AT = Dimension(0.5, 0.95)
WEIGHT = Dimension(0.2, 4.0, log=True)
DISTRACTED = Dimension(0.5, 8.0, log=True)


@dataclass(frozen=True)
class Recipe:
    """Settings that gave good results elsewhere.

    Attributes:
        sadr: the parameters for the settings under ``sadr:``.
        clamp: the factor for the editor's clamp.
        layer: the number of layers by which the edit moves.
    """

    sadr: Mapping[str, Any]
    clamp: float = 1.0
    layer: int = 0


RECIPES: Sequence[Recipe] = (
    Recipe({"gamma": 10.0, "stop_at": 0.75, "keep": False}),
    Recipe({"gamma": 5.0, "stop_at": 0.75, "keep": True, "weight": 1.5, "distracted": 5.0}),
    Recipe({"gamma": 1.0, "stop_at": 0.85, "keep": False}),
    Recipe({"gamma": 10.0, "stop_at": 0.8, "keep": False}, clamp=0.7, layer=-2),
    Recipe({"gamma": 3.0, "stop_at": 0.8, "keep": False}, clamp=0.7),
    Recipe({"gamma": 3.0, "stop_at": 0.6, "keep": True, "weight": 0.7, "distracted": 2.0}),
)
"""The settings that the search tries first."""


@dataclass(frozen=True)
class Space:
    """The space of the search.

    Attributes:
        own: the editor's own settings to search.
        keep: whether the settings of ``sadr.keep`` are searched.
        steps: the largest number of steps of an edit. ``stop_at`` decides how many an edit takes.
        fixed: settings under ``sadr:`` that every trial has.
        kept: settings under ``sadr.keep`` that every trial with ``keep`` has.
    """

    own: Mapping[str, Dimension]
    keep: bool
    steps: int
    fixed: Mapping[str, Any]
    kept: Mapping[str, Any] = field(default_factory=dict)

    def suggest(self, trial: optuna.Trial) -> None:
        """Draw the parameters of a trial."""
        for name, dimension in self.own.items():
            _draw(trial, name, dimension)
        _draw(trial, "gamma", GAMMA)
        _draw(trial, "stop_at", STOP_AT)
        if self.keep and trial.suggest_categorical("keep", [False, True]):
            _draw(trial, "weight", WEIGHT)
            _draw(trial, "distracted", DISTRACTED)

    def setup(self, parameters: Mapping[str, Any]) -> Setup:
        """Return the setup for the parameters of a trial."""
        own = {name: _rounded(parameters[name]) for name in self.own if name in parameters}
        sadr: dict[str, Any] = {**self.fixed, "num_grad_steps": self.steps}
        sadr |= {name: _rounded(parameters[name]) for name in ("gamma", "stop_at")}
        if parameters.get("keep"):
            names = ("weight", "distracted")
            searched = {name: _rounded(parameters[name]) for name in names}
            sadr["keep"] = {**self.kept, **searched}
        return Setup(own, sadr)

    def first(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the parameters to try first: the recipes, applied to settings of the editor.

        Args:
            values: the editor's own settings: those of the file, or better ones that are already
                known.
        """
        own = {
            name: values[name]
            for name, dimension in self.own.items()
            if name in values and (dimension.choices is None or values[name] in dimension.choices)
        }
        return [
            {
                **self._changed(own, recipe),
                **{k: v for k, v in recipe.sadr.items() if self.keep or k != "keep"},
            }
            for recipe in RECIPES
            if self.keep or not recipe.sadr["keep"]
        ]

    def _changed(self, own: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
        """Apply a recipe to the editor's own settings, as far as they are searched."""
        changed = dict(own)
        if CLAMP in own:
            changed[CLAMP] = own[CLAMP] * recipe.clamp
        if "layer" in own and recipe.layer:
            found = nearest_layer(self.own["layer"], own["layer"], recipe.layer)
            changed["layer"] = own["layer"] if found is None else found
        return changed


def nearest_layer(dimension: Dimension, layer: int, change: int) -> int | None:
    """Return the choice closest to ``layer + change`` that lies on that side of ``layer``.

    Args:
        dimension: the dimension whose choices are layers.
        layer: the present layer.
        change: the number of layers to move. A negative number moves down.

    Returns:
        None if there is no choice on that side.
    """
    side = [c for c in dimension.choices or () if (c - layer) * change > 0]
    return min(side, key=lambda c: abs(c - layer - change), default=None)


def _draw(trial: optuna.Trial, name: str, dimension: Dimension) -> None:
    if dimension.choices is not None:
        trial.suggest_categorical(name, list(dimension.choices))
    else:
        trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def _rounded(value: Any) -> Any:
    """Round a number to three significant digits. Other values stay as they are."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
