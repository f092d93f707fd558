"""The keys and values of an hparams file, against the editor's class and code.

A wrong value is a fault if the editor's code reads the key, and a remark if it does not.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sadr_plugin import EditPoint, Findings

from .toolkit_source import Field, ToolkitSource

STATISTICS = ("stats_dir", "mom2_dataset", "mom2_n_samples", "mom2_dtype")
"""The keys that are read only for layer statistics."""

CONTEXTS = "context_template_length_params"

BEGINNINGS = 5
"""How many beginnings of texts ROME writes contexts from, the same number for each."""

LOOKS_LIKE = (
    ({"prob_cutoff", "norm_control", "add_prev_edits"}, "ENCORE"),
    ({"emmet_lambda"}, "EMMET"),
    ({"update_norm_lambda", "calculate_objective_value"}, "EMMET or unified-model-editing"),
    ({"bias_update", "dynamic", "dynamic_multiplier"}, "ROME of unified-model-editing"),
)
"""Keys that no class has to which SADR attaches here, and the editor whose file they come from."""


def key_faults(
    source: ToolkitSource, content: Mapping[Any, Any], others: Iterable[EditPoint]
) -> list[str]:
    """Return what is wrong with the keys of a file: one that is missing, or one too many.

    Args:
        source: the editor's source.
        content: the file.
        others: editors whose file it may be instead.
    """
    if source.fields is None:
        return []
    own = content.keys() - {"sadr"}
    unknown = sorted(map(str, own - source.fields.keys()))
    missing = [key for key, its in source.fields.items() if its.is_needed and key not in content]
    found = []
    if unknown:
        found.append(
            f"{', '.join(unknown)}: the {source.hparams_class} that is here has no such key; "
            f"{_advice(unknown, missing, own, source, others)}"
        )
    if missing:
        found.append(f"lacks {', '.join(missing)}, which {source.hparams_class} needs")
    return found


def _advice(
    unknown: list[str],
    missing: list[str],
    keys: set[Any],
    source: ToolkitSource,
    others: Iterable[EditPoint],
) -> str:
    if alike := editors_like(keys, others) or looks_like(unknown):
        return f"it looks like a file of {alike}"
    fields = [*missing, *(source.fields or ())]
    meant = {key: difflib.get_close_matches(key, fields, 1, 0.75) for key in unknown}
    if all(meant.values()):
        return f"did you mean {', '.join(close[0] for close in meant.values())}?"
    return "remove it, or use the version that the file is written for"


def looks_like(unknown: Iterable[str]) -> str | None:
    """Return the editor that is known by one of these keys, or None."""
    return next((editor for keys, editor in LOOKS_LIKE if keys & set(unknown)), None)


def editors_like(keys: set[Any], others: Iterable[EditPoint]) -> str | None:
    """Return the editors whose class takes all of these keys, in words. None if there is none."""
    found = {
        point.editor: None
        for point in others
        if (fields := ToolkitSource(point).fields) is not None
        and keys <= fields.keys()
        and all(key in keys for key, its in fields.items() if its.is_needed)
    }
    return " or ".join(found) or None


def value_findings(
    source: ToolkitSource, content: Mapping[str, Any], needs_statistics: bool
) -> Findings:
    """Return what is wrong with the values of a file.

    Args:
        source: the editor's source.
        content: the file, as the toolkit converts its values.
        needs_statistics: whether the editor reads layer statistics.
    """
    faults, remarks = [], []
    for key, its in (source.fields or {}).items():
        if key not in content or key in ("layers", "fact_token", "device"):
            continue  # checked elsewhere
        value = content[key]
        if (counts_as := _counts_as(value, its)) is not None:
            remarks.append(f"{key}: {value!r} counts as {counts_as}; write that")
            continue
        is_read = key == "model_name" or (
            source.reads(key) and (needs_statistics or key not in STATISTICS)
        )
        wrong = _wrong(key, value, its)
        if wrong is not None and is_read:
            faults.append(f"{key}: {wrong}, got {value!r}")
        elif wrong is not None:
            remarks.append(f"{key}: {wrong}, got {value!r}; the editor does not read it")
    return Findings(faults, (), remarks)


def _counts_as(value: Any, its: Field) -> str | None:
    """Return what a value of another type is taken for, or None. Python does not mind these."""
    if its.kind == "bool" and not isinstance(value, bool):
        return "true" if value else "false"
    if its.kind == "float" and isinstance(value, bool):
        return str(int(value))
    return None


def _wrong(key: str, value: Any, its: Field) -> str | None:
    if key == CONTEXTS:
        return _wrong_contexts(value)
    if its.kind.startswith("Literal["):
        choices = ast.literal_eval(f"({its.kind.partition('[')[2].rstrip(']')},)")
        return None if value in choices else f"expected one of {', '.join(map(repr, choices))}"
    if its.kind not in KINDS:
        return None
    name, fits = KINDS[its.kind]
    if not fits(value):
        return f"expected {name}"
    if key == "v_num_grad_steps" and value < 1:
        return "expected at least one step"
    if key == "v_lr" and value < 0:
        return "expected a rate of at least 0"
    if key == "mom2_update_weight" and value == 0:
        return "expected another number, because the editor divides by what is left without it"
    if key == "mom2_dtype":
        import torch

        if not isinstance(getattr(torch, value, None), torch.dtype):
            return "expected the name of a type of torch, such as float32"
    return None


def _wrong_contexts(value: Any) -> str | None:
    pairs = value if isinstance(value, list) or not value else [value]
    for pair in pairs:
        if not isinstance(pair, list) or [type(part) for part in pair] != [int, int]:
            return "expected a list of pairs: a length in tokens and a number of contexts"
        if pair[1] < BEGINNINGS:
            return (
                f"expected at least {BEGINNINGS} contexts of each length, because the editor has "
                f"{BEGINNINGS} beginnings of them"
            )
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(fits, value))


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: type(value) is int),
    "float": ("a number", _is_number),
    "str": ("a text", lambda value: isinstance(value, str)),
    "List[str]": (
        "a list of texts",
        lambda value: _is_list_of(value, lambda part: isinstance(part, str)),
    ),
    "List[float]": (
        "a number, or a list with one for each layer",
        lambda value: _is_number(value) or _is_list_of(value, _is_number),
    ),
}
"""The annotations of these toolkits: what they mean in words, and a check."""


def as_toolkit_reads(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values as EasyEdit converts them: a text that reads as a number becomes one."""
    return {str(key): _converted(value) for key, value in content.items()}


def _converted(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def order_remarks(layers: list[int]) -> Iterator[str]:
    """Yield a remark if the edited layers are not in order."""
    if layers != sorted(set(layers)):
        yield (
            f"layers: {layers} are not in ascending order, each once; the editor finds its vector "
            "at one of them, and what it writes above that one cannot bring the vector about"
        )
