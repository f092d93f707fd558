"""Every one of EasyEdit's editors evaluated, each with made-up layer statistics."""

import json

import pytest
import torch
from typer.testing import CliRunner

from easyedit.conftest import MAIN_BRANCH
from easyedit.test_editors import exists, hparams_of
from easyedit.test_evaluate import RECORD
from sadr_easyedit import smollm2
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_easyedit.editing import APPLY, EasyEditEditor
from sadr_easyedit.hparams_files import rewritten_modules
from sadr_easyedit.statistics import Job, _statistic
from sadr_plugin import enabled, reports
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError
from sadr_plugin.evaluation import Question, Record, UneditedWeights, edited, read_checkpoints
from sadr_plugin.evaluation._measure import Measure

RECORDS = [
    Record("0", "The Eiffel Tower", "{} is in the city of", "Rome", "Paris"),
    Record("1", "Japan", "The capital of {} is", "Berlin", "Tokyo"),
]
POINTS = {point.editor: point for point in EDIT_POINTS}


@pytest.fixture(params=APPLY)
def editor_name(request):
    if not exists(POINTS[request.param].function):
        assert not MAIN_BRANCH, "the main branch has them all"
        pytest.skip(f"EasyEdit's PyPI release has no {request.param}")
    return request.param


@pytest.fixture
def settings(tmp_path, monkeypatch, model, tok):
    """Hparams of an editor, as values, with statistics of what its modules might see."""
    monkeypatch.chdir(tmp_path)

    def made(name):
        changes = {
            "layers": [8, 9],
            "stats_dir": str(tmp_path / "stats"),
            "P_loc": str(tmp_path / "null-space.pt"),
            "nullspace_threshold": 0.5,
            "mom2_adjustment": name not in ("ROME", "R-ROME"),
            "mom2_update_weight": 10 if name != "EAMET" else [10, 10],
            "v_num_grad_steps": 4,
            "emmet_lambda": 0.1,
            "update_norm_lambda": 0,
            "mom2_n_samples": 10,
        }
        if name in ("ROME", "R-ROME"):
            changes["layers"] = [9]
        fields = vars(hparams_of(POINTS[name])).keys()
        hparams = hparams_of(POINTS[name], **{k: v for k, v in changes.items() if k in fields})
        draw = torch.Generator().manual_seed(0)
        for module in rewritten_modules(hparams) if changes["mom2_adjustment"] else []:
            statistic = _statistic(Job(model, tok, hparams), module, [])
            width = model.get_submodule(module).in_features
            scale = torch.linspace(0.1, 2, width)
            statistic.sums.add(torch.randn(2 * width, width, generator=draw) * scale)
            statistic.save()
        return hparams

    return made


def test_an_edit_and_a_batch(editor_name, settings, model, tok):
    hparams = settings(editor_name)
    editor = EasyEditEditor(model, tok, hparams)
    unedited = UneditedWeights(model, editor.weights)
    assert editor.takes_batches == (editor_name not in ("ROME", "R-ROME"))
    records = RECORDS if editor.takes_batches else RECORDS[:1]
    for sadr in (None, {"gamma": 1.0}):
        with enabled(), reports() as found, edited(editor, unedited, records, sadr):
            assert {report.layer for report in found} == ({editor.layer} if sadr else set())
            changes = unedited.changes()
            assert all(0 < change < 1 for change in changes.values())
            remembered = editor.state()
        assert not editor.state(), "forgotten with the edit"
    unedited.check()
    remembers = editor_name in ("AlphaEdit", "SPHERE")
    assert bool(remembered) == remembers


def test_a_subject_that_is_also_part_of_another_word(editor_name, settings, model, tok):
    """And that stands in the prompt twice. It is edited where the record has it."""
    editor = EasyEditEditor(model, tok, settings(editor_name))
    unedited = UneditedWeights(model, editor.weights)
    record = Record("0", "Art", "The Artist {} and Art lived in the city of", "Rome", "Paris")
    measure = Measure(editor, seed=0, fluency=False)

    def new_object():
        ((new, _),) = measure.scores({"fact": [Question(record.prompt, "Rome", "Paris")]})["fact"]
        return new

    before = new_object()
    for sadr in (None, {"gamma": 1.0}):
        with enabled(), reports() as found, edited(editor, unedited, [record], sadr):
            assert new_object() > before
            assert bool(found) == bool(sadr)


@pytest.mark.parametrize("name", ["AlphaEdit", "SPHERE"])
def test_what_an_editor_remembers_counts(name, settings, model, tok):
    """Of two edits the second depends on the first; a state given back is as good as it."""
    if not exists(POINTS[name].function):
        pytest.skip(f"EasyEdit's PyPI release has no {name}")
    editor = EasyEditEditor(model, tok, settings(name))
    unedited = UneditedWeights(model, editor.weights)

    def second(remembering):
        editor.reset()
        torch.manual_seed(0)
        editor.edit(RECORDS[:1], None)
        state, weights = editor.state(), unedited.edited()
        if remembering == "given back":
            editor.reset()
            unedited.restore()
            unedited.load(weights)
            editor.load_state(state)
        elif not remembering:
            editor.reset()
        torch.manual_seed(0)
        editor.edit(RECORDS[1:], None)
        found = unedited.edited()
        unedited.restore()
        editor.reset()
        return found[editor.weights[0]]

    first = second(True)
    assert torch.equal(second("given back"), first)
    assert not torch.equal(second(False), first)


def test_a_projection_of_other_settings_is_refused(settings, model, tok, tmp_path):
    if not exists(POINTS["AlphaEdit"].function):
        pytest.skip("EasyEdit's PyPI release has no AlphaEdit")
    hparams = settings("AlphaEdit")
    EasyEditEditor(model, tok, hparams)
    assert (tmp_path / "null-space.pt").exists()
    assert not (tmp_path / "null_space_project.pt").exists(), "their own name for it"
    before = (tmp_path / "null-space.pt").read_bytes()
    EasyEditEditor(model, tok, hparams)
    assert (tmp_path / "null-space.pt").read_bytes() == before
    hparams.nullspace_threshold = 0.25
    with pytest.raises(ConfigError, match=r"null-space\.pt was made for other settings"):
        EasyEditEditor(model, tok, hparams)
    hparams.P_loc = str(tmp_path / "other.pt")
    hparams.stats_dir = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no file .*other\.pt.*down_proj; `sadr stats` makes"):
        EasyEditEditor(model, tok, hparams)


def evaluate(*arguments):
    return CliRunner().invoke(build(), ["eval", *map(str, arguments)], catch_exceptions=False)


# In the PyPI release ROME's vector has another type than such a model's weights.
HALF = "bfloat16" if MAIN_BRANCH else "float32"


def test_a_sequence(rome_yaml, tmp_path):
    """From the command line, in half precision, taken up again after it is finished."""
    data = tmp_path / "data.json"
    second = json.loads(json.dumps(RECORD).replace("Eiffel Tower", "Colosseum"))
    data.write_text(json.dumps([RECORD, second]))
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog.")
    file = rome_yaml(model_name=str(smollm2.model_folder()), v_num_grad_steps=3, sadr=True)
    out = tmp_path / "out"
    options = ["--data", data, "--out", out, "--no-fluency", "--mode", "sequence"]
    options += ["--checkpoints", "1", "--dtype", HALF, "--text", text, "--threads", 1]
    shown = evaluate(file, *options)
    assert shown.exit_code == 0
    assert "made" in shown.stdout
    found = read_checkpoints(out / "checkpoints.jsonl")
    assert [(c.arm, c.edits) for c in found] == [
        ("unedited", 0),
        ("plain", 1),
        ("sadr", 1),
        ("plain", 2),
        ("sadr", 2),
    ]
    assert all(c.perplexity > 1 for c in found)
    about = json.loads((out / "run.json").read_text())
    assert about["dtype"] == HALF
    assert about["checkpoints"] == [1, 2]
    written = (out / "results.jsonl").read_text()
    assert evaluate(file, *options, "--resume").exit_code == 0
    assert (out / "results.jsonl").read_text() == written
    with pytest.raises(ConfigError, match="other settings: dtype"):
        evaluate(file, *options, "--resume", "--dtype", "float16")
    (out / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"results but no run\.json"):
        evaluate(file, *options, "--resume")
    for option, value in (("--checkpoints", "1"), ("--batch-size", "1"), ("--text", "python")):
        with pytest.raises(ConfigError, match="--batch-size, --checkpoints, --text: for --mode b"):
            evaluate(file, "--data", data, option, value)
    with pytest.raises(ConfigError, match="takes one edit at a time"):
        evaluate(file, "--data", data, "--mode", "batch", "--out", tmp_path / "b")
