"""The research code's hparams files. They are JSON files that do not name their editor."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_easyedit.hparams_check import HparamsCheck
from sadr_easyedit.hparams_values import looks_like
from sadr_easyedit.toolkit_source import ToolkitSource
from sadr_plugin import EditPoint, HparamsSummary, hookimpl
from sadr_plugin.adapter import edited_layers
from sadr_plugin.errors import ConfigError

from .declarations import EDIT_POINTS

if TYPE_CHECKING:
    from torch import nn

NEEDED = {"layers", "layer_module_tmp", "rewrite_module_tmp", "v_num_grad_steps", "v_loss_layer"}
"""The keys that all of these files have."""

TOLD_BY = {
    "nullspace_threshold": "AlphaEdit",
    "neuron_threshold": "NSE",
    "rewrite_module_tmps": "PMET",
    "context_template_length_params": "ROME",
    "mom2_update_weight": "MEMIT",
}
"""The first of these keys that a file has determines its editor."""

OF_ALL = (
    *("layers", "fact_token", "v_num_grad_steps", "v_lr", "v_loss_layer", "v_weight_decay"),
    *("clamp_norm_factor", "kl_factor", "mom2_adjustment", "mom2_dataset", "mom2_n_samples"),
    *("mom2_dtype", "rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp"),
    *("attn_module_tmp", "ln_f_module", "lm_head_module", "model_name"),
)
"""The fields of every hparams class of this code. Not all of them have the last one."""

OF_MEMIT = ("layer_selection", "mom2_update_weight")
"""Further fields of the editors that write many edits at once."""

FIELDS = {
    "ROME": ("context_template_length_params",),
    "MEMIT": OF_MEMIT,
    "PMET": (*OF_MEMIT, "nll_loss_factor", "rewrite_module_tmps"),
    "AlphaEdit": (*OF_MEMIT, "nullspace_threshold", "L2"),
    "NSE": (*OF_MEMIT, "alpha", "upper_bound", "max_iterations", "neuron_threshold"),
}
"""The other fields of the editors' classes. They serve where the code itself is not at hand."""


class ResearchCheck(HparamsCheck):
    """The checks of a file of the research code."""

    def calls(self, model: nn.Module, tokenizer: Any) -> list[dict[str, Any]]:
        """Return the arguments of an edit, as `HparamsSummary.calls` does.

        Raises:
            ConfigError: the code cannot be imported, or its class refuses the file.
        """
        if self.key_faults():
            return []  # the class cannot be built, for the reasons in `findings`
        try:
            hparams = pkgutil.resolve_name(self.point.hparams).from_json(self.file)
            pkgutil.resolve_name(self.point.function)  # its finder is looked at
        except ConfigError:
            raise
        except Exception as error:  # the code reads files where it runs
            raise ConfigError(
                f"{self.file}: the code of {self.point.editor} cannot be imported, or refuses the "
                f"file: {error!r}; start the command in the code's folder"
            ) from error
        found = self.arguments(model, tokenizer, hparams)
        return [{**given, "left_vector": None} for given in found]


@hookimpl(trylast=True)  # only the last adapter can say that nobody can read a file
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """Return what such a file says, or None for any other file.

    The model is the file's ``model_name`` or, without one, the file's own name. In both, the
    research code writes ``_`` for the ``/`` in a model's name.

    Raises:
        ConfigError: the file is not JSON, has keys of another editor, or ``layers`` is not a list
            of indices.
    """
    content = _content(file)
    if content is None or "alg_name" in content or not content.keys() >= NEEDED:
        return None
    editor = next((found for key, found in TOLD_BY.items() if key in content), None)
    if editor is None:
        return None
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    _expect_own_keys(file, content, point)
    name = str(content.get("model_name") or file.stem)
    edited_layers(file, content["layers"])
    check = ResearchCheck(file, content, point)
    return HparamsSummary(
        editor=editor,
        model_name=name if "/" in name else name.replace("_", "/", 1),
        layer=check.vector_layers[-1],
        layer_template=str(content["layer_module_tmp"]),
        sadr=content.get("sadr"),
        hparams=point.hparams,
        settings=content,
        check=check.findings,
        calls=check.calls,
    )


def _expect_own_keys(file: Path, content: Mapping[str, Any], point: EditPoint) -> None:
    """Check that the editor's class takes all keys of the file.

    Raises:
        ConfigError: it does not. The message names the keys and the editor that they look like.
    """
    source = ToolkitSource(point)
    fields = source.fields if source.is_the_declared_one() else None
    known = {*OF_ALL, *FIELDS[point.editor]} if fields is None else fields.keys()
    unknown = [key for key in content if key not in known and key != "sadr"]
    if not unknown:
        return
    advice = "remove it, or start the command in the folder of the code that has it"
    if alike := looks_like(unknown):
        advice = f"it looks like a file of {alike}, whose own code SADR does not know"
    raise ConfigError(
        f"{file}: {', '.join(unknown)}: the hparams class of {point.editor} has no such key; "
        f"{advice}"
    )


def _content(file: Path) -> dict[str, Any] | None:
    """Return the file's JSON object, or None if the file is not one.

    Raises:
        ConfigError: the file cannot be read as JSON.
    """
    if file.suffix != ".json":
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ConfigError(f"{file}: cannot be read as JSON: it is nested too deeply") from None
    except OSError:
        return None
    except ValueError as error:
        raise ConfigError(f"{file}: cannot be read as JSON: {error}") from None
    return content if isinstance(content, dict) else None
