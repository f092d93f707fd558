"""`sadr doctor`: the checks that are the same for every adapter."""

import dataclasses
import json
import shutil
import socket
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from sadr_plugin import EditorOptions, Findings, HparamsSummary, SadrConfig, hookimpl
from sadr_plugin.commands import _toolkits
from sadr_plugin.commands._blank_model import blank_model, in_words
from sadr_plugin.commands._hparams import summary_of
from sadr_plugin.commands._outlook import outlook
from sadr_plugin.commands._run_setup import make_editor, read_summary
from sadr_plugin.commands._toolkits import copy_of
from sadr_plugin.commands._verdict import verdict_on
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import SMALL, read_small, tiny_llama, word_tokenizer


@pytest.fixture
def folder(tmp_path):
    """A small model with its tokenizer."""
    tiny_llama().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def summary(folder, **changes):
    given = HparamsSummary("SMALL", str(folder), 1, "model.layers.{}", True)
    return dataclasses.replace(given, **changes)


@pytest.fixture
def offline(monkeypatch):
    """No connection is made, and none is tried."""
    tried = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, place: tried.append(place))
    yield
    assert tried == []


def test_a_model_is_found_by_the_adapters_name_for_it(folder, offline):
    blank = blank_model(summary("far", find_model=lambda: folder))
    assert blank.faults == ()
    assert {parameter.device.type for parameter in blank.model.parameters()} == {"meta"}
    assert blank.describe() == "LlamaForCausalLM, 4 layers, 38,304 parameters"
    assert blank.tokenizer.tokenize("the tower") == ["the", "tower"]


def test_a_model_that_is_not_on_this_machine_is_not_looked_for_elsewhere(offline):
    blank = blank_model(summary("nobody/has-this"))
    assert blank.model is None
    assert "'nobody/has-this' is no folder" in blank.faults[0]
    assert "`hf download nobody/has-this` does" in blank.faults[0]


def test_a_model_in_the_hubs_cache_has_its_own_name(folder, tmp_path, monkeypatch, offline):
    cached = tmp_path / "hub" / "models--me--mine"
    shutil.copytree(folder, cached / "snapshots" / "1")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    blank = blank_model(summary("me/mine"))
    assert blank.faults == ()
    assert blank.model.config._name_or_path == "me/mine", "statistics are looked for by it"


@pytest.mark.parametrize(
    ("missing", "fault"),
    [("model.safetensors", "holds no weights"), ("tokenizer*", "cannot be loaded: ")],
)
def test_what_a_models_folder_lacks(folder, missing, fault):
    for file in folder.glob(missing):
        file.unlink()
    blank = blank_model(summary(folder))
    assert blank.model is not None, "its paths can be looked up all the same"
    assert fault in blank.faults[0]
    assert str(folder) in blank.faults[0]


@pytest.mark.parametrize(
    ("number", "words"),
    [(999, "999"), (134_515_008, "135 million"), (6_050_882_784, "6.05 billion")],
)
def test_sizes_in_words(number, words):
    assert in_words(number) == words


COMMIT = "14cea82" + "0" * 33


@pytest.mark.parametrize("kind", ["detached", "branch", "packed", "worktree", "none"])
def test_a_toolkit_is_named_with_its_commit(kind, tmp_path, monkeypatch):
    package, git = tmp_path / "checkout" / "mytoolkit", tmp_path / "checkout" / ".git"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if kind == "worktree":
        git.write_text("gitdir: ../real/worktrees/w\n")
        git = tmp_path / "real" / "worktrees" / "w"
        git.mkdir(parents=True)
        (git / "commondir").write_text("../..\n")
        (tmp_path / "real" / "refs" / "heads").mkdir(parents=True)
        (tmp_path / "real" / "refs" / "heads" / "main").write_text(COMMIT + "\n")
    elif kind != "none":
        git.mkdir()
    if kind == "branch":
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "refs" / "heads" / "main").write_text(COMMIT + "\n")
    if kind == "packed":
        (git / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    if kind != "none":
        head = COMMIT if kind == "detached" else "ref: refs/heads/main"
        (git / "HEAD").write_text(head + "\n")
    monkeypatch.syspath_prepend(tmp_path / "checkout")
    told = copy_of("mytoolkit")
    if kind == "none":
        assert told.startswith(str(package)), "pytest's own folder may be in a checkout"
    else:
        assert told == f"{package} (commit 14cea82)"


def test_a_toolkit_is_named_with_its_version():
    assert copy_of("pluggy").endswith(
        f"pluggy (version {_toolkits.code_version('pluggy', 'pluggy')})"
    )
    assert copy_of("no_such_toolkit") is None


@pytest.mark.parametrize(
    ("settings", "parameters", "said", "unsaid"),
    [
        (True, 135 * 10**6, ["γ is 0.5 (the editor's", "own rule, after 20", "no early stop"], []),
        ({"gamma": 0.01}, 135 * 10**6, ["γ is 0.01;", "expect next to nothing"], ["default"]),
        ({"gamma": 10, "stop_at": 0.7}, 10**8, ["probability of 0.7, after 20"], ["no early"]),
        ({"gamma": 0.01}, 6 * 10**9, ["nobody has measured a model of this size"], ["nothing"]),
        ({"gamma": 0}, 6 * 10**9, ["without the penalty"], ["nobody", "no early"]),
    ],
)
def test_the_outlook(settings, parameters, said, unsaid):
    told = "\n".join(outlook(SMALL, SadrConfig.parse(settings), 20, parameters))
    assert [text for text in said if text not in told] == []
    assert [text for text in unsaid if text in told] == []


class Terms:
    """A plugin with a term of its own, which asks the model at once."""

    @hookimpl
    def sadr_loss_terms(self, running, config):
        if config.term_settings("mine") is None:
            return []
        return [float(next(running.edit.model.parameters()).detach().sum())]


@pytest.fixture
def judged(folder, small_adapter, declared):
    """The verdict on a file for the small toolkit."""

    def judge(sadr, changes=None, **fields):
        with registered(Terms()):
            if changes:
                declared(editor="OTHER", **changes)

            def calls(model, tokenizer):
                return [
                    {
                        "model": model,
                        "tok": tokenizer,
                        "request": {"prompt": "the {} is in", "subject": "tower", "target": "rome"},
                        "hparams": SmallHparams(**fields),
                    }
                ]

            editor = "OTHER" if changes else "SMALL"
            given = summary(folder, editor=editor, sadr=sadr, calls=calls)
            return verdict_on(folder / "file", given)

    return judge


def without_target(arguments):
    return dataclasses.replace(read_small(arguments), target=None)


@pytest.mark.parametrize(
    ("sadr", "changes", "fields", "fault"),
    [
        (True, {}, {}, None),
        ({"stop_at": 0.5}, {"read": without_target}, {}, "sadr.stop_at: the adapter of OTHER"),
        ({"num_grad_steps": 9}, {"steps_attribute": None}, {}, "sadr.num_grad_steps: OTHER has no"),
        ({"keep": True}, {}, {"fact_token": "last"}, "sadr.keep: this edit changes the prompt's"),
        ({"terms": {"mnie": {}}}, {}, {}, "sadr.terms.mnie: no plugin gives such a term"),
        ({"layers": [9]}, {}, {}, "sadr.layers: 9 is outside LlamaForCausalLM"),
        (True, {}, {"layer": 3}, "the edited layer 3 is the last one"),
        (True, {}, {"fact_token": "first"}, "edited_token: 'first' is not one of"),
    ],
)
def test_an_edits_own_refusals(judged, sadr, changes, fields, fault):
    verdict = judged(sadr, changes, **fields)
    if fault is None:
        assert verdict.is_good, verdict.faults
    else:
        assert fault in "; ".join(verdict.faults)


def test_what_cannot_be_tried_without_weights_is_said(judged):
    verdict = judged({"terms": {"mine": {}}})
    assert verdict.is_good
    assert "can be made without the model's weights: RuntimeError" in "; ".join(verdict.remarks)


class Reads:
    """An adapter of a file with a fault, something lacking and a remark."""

    def __init__(self, folder, found):
        self.folder, self.found = folder, found

    @hookimpl
    def sadr_read_hparams(self, file):
        return summary(self.folder, check=lambda model: self.found) if file.suffix == ".s" else None


FOUND = Findings(["a fault"], ["a lacking file"], ["a remark"])


def test_an_adapters_findings_are_shown_and_written(folder, small_adapter, tmp_path):
    file = tmp_path / "a.s"
    file.touch()
    with registered(Reads(folder, FOUND)):
        shown = CliRunner().invoke(build(), ["doctor", str(file), "--json", str(tmp_path / "j")])
    assert shown.exit_code == 1
    for line in ("! a remark", "✗ a fault", "✗ a lacking file", "Editor: SMALL (smalledit.editor"):
        assert line in shown.stdout
    assert "SADR works with this" not in shown.stdout
    found = json.loads((tmp_path / "j").read_text())["hparams"]
    assert found["problems"] == ["a fault", "a lacking file"]
    assert (found["remarks"], found["editor"]) == (["a remark"], "SMALL")


def test_a_file_that_is_good_gets_its_outlook(folder, small_adapter, tmp_path):
    file = tmp_path / "a.s"
    file.touch()
    with registered(Reads(folder, Findings())):
        shown = CliRunner().invoke(build(), ["doctor", str(file)])
    assert shown.exit_code == 0
    assert f"✓ {file}: SADR works with this" in shown.stdout
    assert "γ is 0.5 (the editor's default)" in shown.stdout


def test_a_command_refuses_a_faulty_file_before_it_loads_the_model(folder, small_adapter, tmp_path):
    file = tmp_path / "a.s"
    file.touch()
    with registered(Reads(folder, FOUND)), pytest.raises(ConfigError, match=rf"^{file}: a fault$"):
        read_summary(file)
    with registered(Reads(folder, dataclasses.replace(FOUND, faults=[]))):
        assert read_summary(file).editor == "SMALL"
    with registered(Reads(folder / "none", FOUND)):
        assert read_summary(file).editor == "SMALL", "it may be downloaded"


class OwnYaml:
    """An adapter whose files have an ``alg_name`` that EasyEdit's adapter does not know."""

    @hookimpl
    def sadr_read_hparams(self, file):
        return summary(file.parent, sadr=None) if "alg_name: Mine" in file.read_text() else None


def test_an_alg_name_of_another_adapter_is_left_to_it(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("alg_name: Mine\n")
    with registered(OwnYaml()):
        assert summary_of(file).editor == "SMALL"
        with pytest.raises(ConfigError, match="its adapter does not say how to evaluate"):
            make_editor(file, EditorOptions())
    with pytest.raises(ConfigError, match="alg_name is 'Mine', not one of ROME, R-ROME"):
        summary_of(file)


@pytest.mark.skipif(find_spec("easyeditor") is not None, reason="EasyEdit is installed here")
def test_a_file_of_a_toolkit_that_is_not_here(folder, tmp_path):
    file = tmp_path / "rome.yaml"
    keys = {"alg_name": "ROME", "model_name": str(folder), "layers": [1], "sadr": True}
    file.write_text(json.dumps({**keys, "layer_module_tmp": "model.layers.{}", "device": 0}))
    shown = CliRunner().invoke(build(), ["doctor", str(file)]).stdout
    assert "Toolkit: easyeditor, which is not here" in shown
    assert [line for line in shown.splitlines() if line[0] in "!✗"] == [
        "✗ ROME: easyeditor is not installed, or its folder is not on PYTHONPATH"
    ]
