"""An editor small enough to see through, and its evaluation."""

import json
import time
import warnings

import torch
from typer.testing import CliRunner

from sadr_plugin import HparamsSummary, Report, hookimpl, plugin_manager
from sadr_plugin.commands.cli import build
from sadr_plugin.evaluation import (
    Arm,
    Editor,
    EvaluationRun,
    LocalEngine,
    Question,
    Record,
    SingleEvaluator,
)
from support import tiny_llama, word_tokenizer

ARMS = [Arm("plain", None), Arm("sadr", {"gamma": 1.0})]


def records(count=3):
    return [
        Record(
            key=str(number),
            subject="tower",
            template="the {} is in",
            target_new="rome",
            target_true="paris",
            neighbours=(Question("the louvre is in", "paris", "rome"),),
            relations=(Question("the tower is a", "city", "rome"),) if number % 2 else (),
            openings=("the tower", "a city"),
        )
        for number in range(count)
    ]


class SmallEditor(Editor):
    """Moves one weight, the further the more often it has done so since it was reset."""

    layer = 1
    layer_template = "model.layers.{}"
    weights = ("model.layers.2.self_attn.k_proj.weight",)

    def __init__(self, elsewhere=False, error=None, pause=0.0, bad="1"):
        self.model = tiny_llama().requires_grad_(False)
        self.tokenizer = word_tokenizer()
        self.elsewhere = elsewhere
        self.error = error
        self.pause = pause
        self.bad = bad
        self.edits = []
        self.remembered = torch.zeros(1)

    def edit(self, records, sadr):
        for record in records:
            self.edits.append((record.key, None if sadr is None else sadr.get("gamma")))
        time.sleep(self.pause)
        weight = self.model.get_parameter(self.weights[0])
        self.remembered += len(records)
        with torch.enable_grad():
            for _ in range(4):
                self.model(torch.tensor([[1, 2]]))
        size = (2.0 if sadr is None else 1.0) * self.remembered.sqrt()
        weight += size * torch.randn(weight.shape)
        if self.error is not None and self.bad in [record.key for record in records]:
            raise self.error
        if self.elsewhere:
            # Reversed rows: no sum shows it.
            other = self.model.model.layers[3].mlp.up_proj.weight
            other.copy_(other.flip(0))

    def reset(self):
        self.remembered.zero_()

    def state(self):
        return {"remembered": self.remembered.clone()}

    def load_state(self, state):
        self.remembered = state["remembered"].clone()


class Hidden(SmallEditor):
    """Writes, besides, to a weight that it does not name, in a way that leaves no mark."""

    def edit(self, records, sadr):
        super().edit(records, sadr)
        self.model.model.layers[3].mlp.up_proj.weight.data.add_(1)


def evaluate(tmp_path, editor=None, count=3, retry_failed=False, **options):
    evaluator = SingleEvaluator(editor or SmallEditor(), ARMS, **options)
    evaluation = EvaluationRun(LocalEngine(evaluator), tmp_path / "results.jsonl", retry_failed)
    return evaluation.run(records(count))


def arm(results, name, record):
    """The one result of a record in an arm."""
    (found,) = (r for r in results if (r.arm, r.record) == (name, record))
    return found


def without_times(results):
    return [{**vars(result), "seconds": None} for result in results]


class Acting(SmallEditor):
    """Reports its edits with SADR as the plugin does, apart from one record."""

    def __init__(self, plain=None):
        super().__init__()
        self.plain = plain

    def edit(self, records, sadr):
        super().edit(records, sadr)
        if sadr is not None and self.plain not in [record.key for record in records]:
            report = Report("Small", 1, {"drift": 1.0}, (), 0.0)
            plugin_manager().hook.sadr_edit_finished(report=report)


NO_ACTION = "SADR: in the arm sadr, SADR did not act on the edit of record"


def plain_edits(evaluate):
    """The records of which an evaluation warns."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        evaluate()
    told = [str(warning.message) for warning in warned]
    return [text.split(";")[0].split()[-1] for text in told if text.startswith(NO_ACTION)]


class Idle(SmallEditor):
    """Edits a model of its own."""

    def edit(self, records, sadr):
        pass


class Elsewhere(Acting):
    """Names another layer than its edits report."""

    layer = 0


def stopped_by(error, at=4):
    """What ends a run from outside, at an item."""
    seen = []

    def on_item(item):
        seen.append(item)
        if len(seen) == at:
            raise error

    return on_item


class Stranger:
    """An adapter with a file format and an editor of its own."""

    @hookimpl
    def sadr_read_hparams(self, file):
        if file.suffix == ".small":
            return HparamsSummary("Small", "tiny", 1, "model.layers.{}", sadr=True)
        return None

    @hookimpl
    def sadr_editor(self, file, options):
        return SmallEditor() if file.suffix == ".small" else None


def sadr_eval(tmp_path, *options):
    (tmp_path / "hparams.small").touch()
    data = [
        {"prompt": "the tower is in", "subject": s, "target_new": "rome", "ground_truth": "paris"}
        for s in ("tower", "the tower")
    ]
    (tmp_path / "data.json").write_text(json.dumps(data))
    given = ["eval", tmp_path / "hparams.small", "--data", tmp_path / "data.json", "--no-fluency"]
    given += ["--out", tmp_path / "out", *options]
    return CliRunner().invoke(build(), list(map(str, given)), catch_exceptions=False)
