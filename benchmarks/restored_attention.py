"""How much of an edit's damage to other facts attention does: the same questions once more, with
the unedited model's attention weights put in place of the edited model's.

    python benchmarks/restored_attention.py HPARAMS.yaml [--limit N]

Asks the built-in records that docs/results.md does not report, of a model of Llama's architecture.
What comes back with the weights restored attention had taken; what does not, no restriction of
attention can bring back.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from transformers.models.llama import modeling_llama

import sadr_plugin
from sadr_easyedit.editing import EasyEditEditor
from sadr_easyedit.environment import import_text_only
from sadr_easyedit.hparams_files import load_hparams
from sadr_easyedit.loading import load_model
from sadr_plugin.commands.environment import silence
from sadr_plugin.evaluation import (
    BUILTIN,
    Question,
    Record,
    Scorer,
    UneditedWeights,
    edited,
    load,
    sample,
)
from sadr_plugin.evaluation._metrics import SHORT, TASKS

SPECIFICITY = ("neighbourhood", "relation", "distracting neighbourhood", "distracting relation")


class Attention:
    """The attention weights of the forwards of one block, used by those of another."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []

    def remembered(self) -> contextlib.AbstractContextManager[None]:
        """Keep the weights of the forwards in the block."""
        self._weights.clear()
        attend = modeling_llama.eager_attention_forward

        def remember(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            output, weights = attend(*args, **kwargs)
            self._weights.append(weights)
            return output, weights

        return _attending(remember)

    def restored(self) -> contextlib.AbstractContextManager[None]:
        """Use them in the same forwards again."""
        kept = iter(self._weights)

        def restore(
            module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            weights = next(kept)
            values = modeling_llama.repeat_kv(value, module.num_key_value_groups)
            return (weights @ values).transpose(1, 2).contiguous(), weights

        return _attending(restore)


@contextlib.contextmanager
def _attending(function: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[None]:
    before = modeling_llama.eager_attention_forward
    modeling_llama.eager_attention_forward = function
    try:
        yield
    finally:
        modeling_llama.eager_attention_forward = before


def questions(record: Record) -> list[tuple[str, Question]]:
    return [(task, question) for task in SPECIFICITY for question in TASKS[task](record)]


def right(scorer: Scorer, asked: list[tuple[str, Question]]) -> list[bool]:
    """Of each question, whether its right answer is the likelier one."""
    pairs = [(q.prompt, answer) for _, q in asked for answer in (q.right, q.wrong)]
    likely = [answer.mean_log_probability for answer in scorer.answers(pairs)]
    return [likely[place] > likely[place + 1] for place in range(0, len(likely), 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hparams", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()

    torch.set_float32_matmul_precision("medium")
    import_text_only()
    sadr_plugin.enable()
    hparams = load_hparams(options.hparams)
    arms = {"plain": None, "control": {**hparams.sadr, "gamma": 0.0}, "sadr": hparams.sadr}
    with silence():
        model, tokenizer = load_model(hparams, "eager")
        editor = EasyEditEditor(model, tokenizer, hparams)
    unedited = UneditedWeights(model, editor.weights)
    scorer, attention = Scorer(model, tokenizer), Attention()

    everything = load(BUILTIN).records
    reported = {record.key for record in sample(everything, 60, 0)}
    others = [record for record in everything if record.key not in reported]
    found = defaultdict(list)
    for record in track(others[: options.limit], "records"):
        asked = questions(record)
        with attention.remembered():
            unedited = right(scorer, asked)
        for arm, sadr in arms.items():
            torch.manual_seed(0)
            with silence(), edited(editor, unedited, [record], sadr):
                now = right(scorer, asked)
                with attention.restored():
                    restored = right(scorer, asked)
            for (task, _), *answers in zip(asked, unedited, now, restored, strict=True):
                found[arm, task].append(answers)

    print("| arm | | unedited | edited | edited, with the unedited attention |")
    print("|---|---|---|---|---|")
    for (arm, task), answers in found.items():
        percents = [100 * sum(column) / len(column) for column in zip(*answers, strict=True)]
        print(f"| {arm} | {SHORT[task]} |", " | ".join(f"{p:.1f}" for p in percents), "|")


if __name__ == "__main__":
    main()
