"""`sadr eval` with EasyEdit's own editors on SmolLM2."""

import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sadr_plugin
from easyedit.conftest import MAIN_BRANCH
from easyedit.test_editors import exists, hparams_of
from sadr_easyedit import smollm2
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_easyedit.editing import EasyEditEditor
from sadr_easyedit.hparams_files import load_hparams, read_yaml
from sadr_easyedit.loading import device_of
from sadr_plugin.commands._run_folder import claim
from sadr_plugin.commands.cli import build
from sadr_plugin.config import SadrConfig
from sadr_plugin.errors import ConfigError, EvaluationError
from sadr_plugin.evaluation import Record, Scorer, UneditedWeights, edited

BENCHMARKS = Path(__file__).parents[2] / "benchmarks/hparams"

RECORD = {
    "requested_rewrite": {
        "prompt": "The Eiffel Tower is located in the city of",
        "subject": "The Eiffel Tower",
        "target_new": "Rome",
        "target_true": "Paris",
    },
    "rewrite": {
        "prompts": ["The Eiffel Tower is located in the city of"],
        "targets": ["Rome"],
    },
    "l-neighbor": {
        "prompts": ["The Louvre is located in the city of", "The Sorbonne is located in"],
        "targets": ["Paris", "Paris"],
    },
}


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([RECORD, {"subject": "no prompt"}]))
    return str(file)


@pytest.fixture
def hparams(rome_yaml):
    def write(**changes):
        return rome_yaml(model_name=str(smollm2.model_folder()), v_num_grad_steps=8, **changes)

    return write


def evaluate(*arguments):
    return CliRunner().invoke(build(), ["eval", *arguments], catch_exceptions=False)


def test_both_arms_of_a_record(hparams, data, tmp_path):
    out = tmp_path / "out"
    options = ["--data", data, "--out", str(out), "--skip-bad", "--no-fluency", "--gamma", "0.5"]
    shown = evaluate(hparams(), *options)
    assert shown.exit_code == 0
    assert "unedited" in shown.stdout
    assert "skipped: record 1" in shown.stdout
    assert "Executing ROME" not in shown.stdout
    summary = json.loads((out / "summary.json").read_text())
    unedited, plain, sadr = summary["arms"]
    assert unedited["accuracy"]["efficacy"]["mean"] == 0
    assert plain["accuracy"]["efficacy"]["mean"] == 100
    assert plain["steps"] == sadr["steps"] == 8
    assert sadr["drift"] < plain["drift"]
    assert summary["about"]["arms"] == {"plain": None, "sadr": {"gamma": 0.5}}
    lines = (out / "results.jsonl").read_text()
    assert evaluate(hparams(), *options, "--resume").exit_code == 0
    assert (out / "results.jsonl").read_text() == lines, "nothing was done again"
    with pytest.raises(ConfigError, match="continue it with --resume"):
        evaluate(hparams(), *options)
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(hparams(), *options, "--resume", "--seed", "1")
    assert sadr_plugin.attached() == []


def test_arms(hparams, data, tmp_path):
    """A control with SADR's steps but no penalty, and an arm for each γ."""
    flag = {"num_grad_steps": 6, "stop_at": 0.9}
    out = tmp_path / "out"
    options = ["--data", data, "--out", str(out), "--skip-bad", "--no-fluency"]
    options += ["--arms", "control,sadr", "--gamma", "0.5", "--gamma", "2", "--matmul", "high"]
    precision = torch.get_float32_matmul_precision()
    shown = evaluate(hparams(sadr=flag, v_lr=1.0), *options)
    assert torch.get_float32_matmul_precision() == precision
    assert "sadr 0.5" in shown.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["about"]["arms"] == {
        "control": {**flag, "gamma": 0},
        "sadr 0.5": {**flag, "gamma": 0.5},
        "sadr 2": {**flag, "gamma": 2},
    }
    assert summary["about"]["matmul"] == "high"
    _, control, half, two = summary["arms"]
    assert control["drift"] > half["drift"] > two["drift"]
    assert ">sadr 0.5</text>" in (out / "summary.svg").read_text()
    with pytest.raises(ConfigError, match="--gamma: expected different"):
        evaluate(hparams(), *options, "--gamma", "2", "--resume")
    for wrong, message in (
        (["--arms", "plain", "--gamma", "1"], "no arm sadr"),
        (["--gamma", "inf"], "sadr.gamma: expected a finite number"),
        (["--workers", "2"], "--workers: works only with --engine ray"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate(hparams(), "--data", data, "--skip-bad", "--out", str(tmp_path / "b"), *wrong)


def test_on_a_worker(hparams, data, tmp_path):
    """EasyEdit's editor and the model are loaded there; the results are those of this process."""
    pytest.importorskip("ray", reason="the ray engine's own package is optional")
    options = ["--data", data, "--skip-bad", "--no-fluency", "--gamma", "0.5"]
    lines = []
    for engine in (["local"], ["ray", "--workers", "1"]):
        out = tmp_path / engine[0]
        assert evaluate(hparams(), *options, "--out", str(out), "--engine", *engine).exit_code == 0
        lines.append(
            [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        )
    here, there = lines
    assert [line["arm"] for line in there] == ["unedited", "sadr", "plain"]  # this record's turn
    for one, other in zip(here, there, strict=True):
        assert one["rewrite_acc"] == other["rewrite_acc"]
        # Sums depend on the number of threads.
        assert one["drift"] == pytest.approx(other["drift"], rel=0.01, abs=1e-3)


def test_an_error_of_easyedits_own(hparams, data, tmp_path, monkeypatch):
    """It ends the run; asked to, the run counts it, says it and goes on with what there is."""
    file = hparams()

    def fails(*_):
        raise RuntimeError("singular matrix")

    module = importlib.import_module("easyeditor.models.rome.rome_main")
    monkeypatch.setattr(module, "compute_u", fails)
    good = tmp_path / "good.json"
    good.write_text(json.dumps([RECORD]))
    options = ["--data", str(good), "--no-fluency", "--out", str(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="singular matrix"):
        evaluate(file, *options)
    shown = CliRunner().invoke(build(), ["eval", file, *options, "--resume", "--skip-bad"])
    assert isinstance(shown.exception, EvaluationError), "a run without a result is no success"
    failed = " ".join(shown.stdout.split())
    assert "no picture: no record was scored in every arm; results.jsonl has" in failed
    for arm in ("plain", "sadr"):
        assert f"failed: record 0, {arm}: RuntimeError: singular matrix" in failed
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [arm["failed"] for arm in summary["arms"]] == [0, 1, 1]


def test_rewrite_acc_is_easyedits_own(model, tok, monkeypatch):
    """On the unedited model, with answers it knows in part, in full, and not."""
    bare = {"evaluate", "trainer"}
    for name in bare:
        module = types.ModuleType(f"easyeditor.{name}")
        root = sys.modules["easyeditor"].__path__[0]
        module.__path__ = [f"{root}/{name}"]
        monkeypatch.setitem(sys.modules, f"easyeditor.{name}", module)
    utilities = pytest.importorskip(
        "easyeditor.evaluate.evaluate_utils",
        reason="the main branch's evaluation imports what text editing does not need",
        exc_type=ImportError,
    )
    asked = [
        ("The capital of Japan is", "Tokyo"),
        ("The capital of Japan is", "Rome"),
        ("The Eiffel Tower is located in the city of", "Paris, France"),
        ("The Eiffel Tower is located in the city of", "Paris, Texas"),
        ("The Eiffel Tower is located in the city of", "Tuvan People's Republic"),
    ]
    hparams = types.SimpleNamespace(max_length=40)
    theirs = [utilities.test_prediction_acc(model, tok, hparams, *pair, 0)[0] for pair in asked]
    ours = [answer.chosen for answer in Scorer(model, tok).answers(asked)]
    assert ours == pytest.approx(theirs)
    assert {0, 1} < set(ours)


@pytest.mark.parametrize("editor", ["ROME", "MEMIT", "PMET"])
def test_the_target_is_edited_in_as_it_is_asked_for(editor, model, tok, monkeypatch):
    """With one space before it, whatever the editor makes of a target."""
    point = next(found for found in EDIT_POINTS if found.editor == editor)
    if not exists(point.function):
        pytest.skip(f"EasyEdit's PyPI release has no {editor}")
    batches = []

    class Enough(Exception):
        pass

    def forward(module, args, kwargs):
        if torch.is_grad_enabled():
            batches.append(kwargs["input_ids"])
            raise Enough

    edit = EasyEditEditor(model, tok, hparams_of(point))
    contexts = ["{}"] if editor == "ROME" else [["{}"]]
    monkeypatch.setattr(edit._module, "CONTEXT_TEMPLATES_CACHE", contexts)
    record = Record("0", "The Eiffel Tower", "{} is in", "New York City", "Paris")
    hook = model.register_forward_pre_hook(forward, with_kwargs=True)
    try:
        with pytest.raises(Enough):
            edit.edit([record], None)
    finally:
        hook.remove()
    asked = tok("The Eiffel Tower is in New York City")["input_ids"]
    assert batches[0][0, : len(asked) - 1].tolist() == asked[:-1]


@pytest.mark.parametrize("file", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_benchmarks_hparams_are_read(file):
    """Each names its editor's own fields, and SADR's own settings."""
    hparams = read_yaml(file)
    point = next(found for found in EDIT_POINTS if found.editor == hparams["alg_name"])
    if "sadr" in hparams:  # one is as it was before it was tuned
        assert SadrConfig.parse(hparams["sadr"]).stop_at
    if not exists(point.function):
        pytest.skip(f"EasyEdit's PyPI release has no {hparams['alg_name']}")
    with sadr_plugin.enabled():
        loaded = load_hparams(file)
    assert {name: getattr(loaded, name) for name in hparams} == hparams


def test_bad_options(hparams, data, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(
        ConfigError, match=r"--arms: expected some of plain, .*, keep, sadr\+keep with"
    ):
        evaluate(hparams(), "--data", data, "--skip-bad", "--arms", "plain,best", *out)
    other = tmp_path / "hparams.yml"
    other.write_text("alg_name: ROME")
    with pytest.raises(ConfigError, match=r"hparams\.yml: EasyEdit reads"):
        evaluate(str(other), "--data", data, "--skip-bad", *out)
    assert not (tmp_path / "out").exists()


def test_a_run_that_came_to_no_result_does_not_hold_its_folder(tmp_path):
    claim(tmp_path, {"seed": 0}, resume=False)
    claim(tmp_path, {"seed": 1}, resume=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="other settings"):
        claim(tmp_path, {"seed": 0}, resume=True)


@pytest.mark.parametrize(
    ("device", "cuda", "expected"),
    [(0, True, "cuda:0"), ("1", True, "cuda:1"), ("cpu", True, "cpu"), (0, False, "cpu")],
)
def test_the_model_is_where_easyedit_puts_its_inputs(device, cuda, expected, monkeypatch):
    if device == "cpu" and not MAIN_BRANCH:
        pytest.skip("EasyEdit's PyPI release knows no other device than a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of(types.SimpleNamespace(device=device)) == expected


def test_an_edit_is_put_in_and_taken_back_to_the_bit(model, tok, rome_yaml):
    from easyeditor.models.rome import ROMEHyperParams

    sadr_plugin.enable()
    hparams = ROMEHyperParams.from_hparams(rome_yaml(v_num_grad_steps=2))
    state = torch.get_rng_state()
    editor = EasyEditEditor(model, tok, hparams, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    record = Record("0", "The Eiffel Tower", "{} is in", "Rome", "Paris")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def same():
        return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    unedited = UneditedWeights(model, editor.weights)
    for sadr in (None, {"gamma": 0.1}):
        with edited(editor, unedited, [record], sadr):
            assert not same()
            (change,) = unedited.changes().values()
            assert 0 < change < 1
        assert same()
    with pytest.raises(ZeroDivisionError), edited(editor, unedited, [record], None):
        raise ZeroDivisionError
    assert same()
    unedited.check()
