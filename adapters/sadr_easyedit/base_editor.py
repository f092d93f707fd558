"""What EasyEdit's ``BaseEditor`` and its layer statistics do with a model.

SADR's own commands do not go through them, so everything here is a remark.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from sadr_plugin.patching._names import Name

EDITOR = Name.parse("easyeditor.editors.editor:BaseEditor")

GPT2_TOKENIZED = ("gpt2", "gptj", "gpt_neo", "gpt_neox", "gpt_bigcode")
"""Architectures whose models GPT-2's tokenizer can read."""

GIB = 2**30
LARGE = 16 * GIB


def names_known() -> list[str]:
    """Return the parts of a model's name by which ``BaseEditor`` chooses classes, in order."""
    try:
        definition = EDITOR.definition(ast.ClassDef)
    except (LookupError, SyntaxError, ValueError):
        return []
    tests = [
        node
        for method in definition.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for node in ast.walk(method)
        if isinstance(node, ast.Compare) and "model_name" in ast.unparse(node.comparators[0])
    ]
    parts = [test.left for test in sorted(tests, key=lambda test: (test.lineno, test.col_offset))]
    return [
        part.value
        for part in parts
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def remarks_on_name(name: str, model_type: str | None) -> Iterator[str]:
    """Yield what ``BaseEditor`` would do wrong with a model of this name.

    Args:
        name: the hparams' ``model_name``.
        model_type: the architecture, as transformers names it. None if it is not known.
    """
    known = list(dict.fromkeys(names_known()))
    part = next((part for part in known if part in name.lower()), None)
    if part is None:
        if known:
            yield (
                f"model_name: EasyEdit's BaseEditor loads only models whose name has one of "
                f"{', '.join(known)}, and ends with a bare NotImplementedError for this one; "
                f"{AROUND}. The sadr commands load it themselves"
            )
    elif model_type is not None and _is_mistaken(part, model_type):
        what = "T5" if part == "t5" else "GPT-2's tokenizer"
        yield (
            f"model_name: EasyEdit's BaseEditor sees {part!r} in it and loads {what}, and the "
            f"model is {model_type}; {AROUND}. The sadr commands load what the model brings"
        )


AROUND = (
    "load the model and its tokenizer yourself, set hparams.model_name = (model, tokenizer) before "
    "BaseEditor.from_hparams(hparams), and editor.model_name to a text after it"
)


def _is_mistaken(part: str, model_type: str) -> bool:
    if part == "t5":
        return "t5" not in model_type
    return part == "gpt" and model_type not in GPT2_TOKENIZED


def remarks_on_statistics(config: Any) -> Iterator[str]:
    """Yield what EasyEdit itself would need to compute layer statistics.

    It fills a batch with three times as many tokens as the model can read, and runs it through the
    layers up to the one that is measured.

    Args:
        config: the model's configuration.
    """
    length = _longest(config)
    heads = getattr(config, "num_attention_heads", None)
    if length is None or not isinstance(heads, int):
        return
    size = 4 * heads * length**2
    if size > LARGE:
        yield (
            "stats_dir: EasyEdit's own code would compute layer statistics of texts of up to "
            f"{length:,} tokens; eager attention of such a text takes {size / GIB:,.0f} GiB in a "
            "layer, in float32. sadr stats runs about 2,000 tokens at once"
        )


def _longest(config: Any) -> int | None:
    """Return the longest text that EasyEdit takes, by its own rules."""
    for name in ("n_positions", "max_sequence_length", "max_position_embeddings", "seq_length"):
        length = getattr(config, name, None)
        if isinstance(length, int):
            return _cut(length, config)
    return None


def _cut(length: int, config: Any) -> int:
    """Shorten a length as EasyEdit's main branch does for two families of models."""
    try:
        layer_stats = Name.parse("easyeditor.models.rome.layer_stats:layer_stats")
        names = ast.unparse(layer_stats.definition(ast.FunctionDef))
    except (LookupError, SyntaxError, ValueError):
        names = ""
    kind = str(getattr(config, "model_type", ""))
    if "'mistral'" in names and "mistral" in kind:
        return getattr(config, "sliding_window", None) or 4096
    if "'qwen'" in names and "qwen" in kind:
        return min(length, 4096)
    return length
