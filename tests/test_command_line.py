"""The command line: its version, its help, and the files it is given."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

from sadr_plugin import EditorOptions, HparamsSummary, hookimpl
from sadr_plugin._version import plugin_version
from sadr_plugin.commands._arms import arms
from sadr_plugin.commands._blank_model import blank_model
from sadr_plugin.commands._hparams import summary_of
from sadr_plugin.commands._options import expect_only_subject
from sadr_plugin.commands._run_setup import make_editor
from sadr_plugin.commands.cli import build
from sadr_plugin.commands.terminal import silence
from sadr_plugin.errors import AttachmentError, ConfigError, SadrError
from sadr_plugin.evaluation import Editor, load_model
from sadr_plugin.testing import registered

COMMANDS = ["doctor", "drift", "editors", "models", "demo", "stats", "eval", "tune"]


def sadr(*arguments, columns=80):
    environment = {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    return CliRunner().invoke(build(), arguments, env=environment, catch_exceptions=False)


def test_the_version():
    assert sadr("--version").stdout == f"sadr {plugin_version()}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", plugin_version())


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_breaks_no_word(command):
    """Every word of the help on a wide terminal is there on a narrow one."""
    arguments = ["--help"] if command is None else [command, "--help"]
    narrowest = 80 if command is None else 60  # summaries are one line
    wide, narrow = (sadr(*arguments, columns=width).stdout for width in (200, narrowest))
    assert "…" not in narrow
    assert "..." not in narrow.replace("[ARGS]...", ""), "no summary is cut off"
    words = set(re.findall(r"\w{6,}", wide))
    assert words <= set(re.findall(r"\w{6,}", narrow))


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "none.yaml", "--data", "builtin"],
        ["eval", "none.yaml", "--data", "none.json"],
        ["stats", "none.yaml", "--corpus", "python"],
    ],
)
def test_a_file_that_is_not_there(arguments, tmp_path, monkeypatch):
    if importlib.util.find_spec("easyeditor") is None:
        pytest.skip("EasyEdit is not installed here: its PyPI release needs transformers 4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SadrError, match=r"there is no file none\.(yaml|json)"):
        sadr(*arguments)


def test_a_corpus_that_is_not_there(tmp_path):
    from sadr_easyedit.corpus import read_texts

    with pytest.raises(SadrError, match=r"--corpus: there is no file .*none\.txt"):
        read_texts([tmp_path / "none.txt"])


@pytest.mark.parametrize("error", [RuntimeError("the client has been closed"), KeyError()])
def test_whatever_keeps_a_model_from_being_loaded_is_named(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    name = str(tmp_path)
    message = f"model_name: {name!r} cannot be loaded: {str(error) or 'KeyError'}"
    with pytest.raises(ConfigError) as raised:
        load_model(name, EditorOptions())
    assert str(raised.value) == message
    blank = blank_model(HparamsSummary("ROME", name, 1, "model.layers.{}", None))
    assert (blank.model, blank.faults) == (None, (message,))


def test_a_model_whose_folder_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = rf"model_name: there is no folder \./hugging_cache/qwen \(seen from {tmp_path}\)"
    with pytest.raises(ConfigError, match=message):
        load_model("./hugging_cache/qwen", EditorOptions())


def test_json_on_the_standard_output_is_refused():
    with pytest.raises(ConfigError, match="--json: '-' is no file; name one"):
        sadr("doctor", "--json", "-")


def test_a_control_that_is_the_plain_edit_is_named():
    with pytest.warns(UserWarning, match="control is the same edit as plain"):
        arms("plain,control,sadr", True, [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arms("plain,control,sadr", {"stop_at": 0.7}, [])
        arms("control,sadr", True, [])


def test_doctor_and_editors_as_data(tmp_path):
    file = tmp_path / "hparams.yaml"
    assert sadr("doctor", str(file), "--json", str(tmp_path / "doctor.json")).exit_code == 1
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["versions"]["sadr-plugin"] == plugin_version()
    assert found["hparams"] == {
        "file": str(file),
        "editor": None,
        "model": None,
        "problems": [f"there is no file {file}"],
        "remarks": [],
        "outlook": [],
    }
    assert sadr("editors", "--json", str(tmp_path / "editors.json")).exit_code == 0
    editors = json.loads((tmp_path / "editors.json").read_text())
    assert [e["function"] for e in editors] == [e["function"] for e in found["editors"]]
    with pytest.raises(SadrError, match="--json: there is no folder"):
        sadr("doctor", "--json", str(tmp_path / "none" / "doctor.json"))


def test_what_is_not_a_terminal_gets_no_colours():
    for arguments in (["doctor"], ["editors"], ["doctor", "none.yaml"]):
        assert "\x1b" not in sadr(*arguments).stdout


def test_a_shell_can_complete():
    assert "--install-completion" in sadr("--help").stdout
    complete = {"_SADR_COMPLETE": "complete_bash", "COMP_WORDS": "sadr dr", "COMP_CWORD": "1"}
    script = Path(sys.executable).with_name("sadr")
    environment = {**os.environ, **complete}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["drift"]


class Wrong:
    """An adapter whose hooks return something else than they should."""

    def __init__(self, summary, editor=None):
        self.summary, self.editor = summary, editor

    @hookimpl
    def sadr_read_hparams(self, file):
        return self.summary

    @hookimpl
    def sadr_editor(self, file, options):
        return self.editor


def lacking(**attributes):
    """An editor with these attributes alone."""
    kind = type("Lacking", (Editor,), {"edit": lambda *_: None})
    editor = kind()
    vars(editor).update(attributes)
    return editor


SUMMARY = HparamsSummary("None's", "/none", 1, "model.layers.{}", True)
WHOLE = {"model": None, "tokenizer": None, "layer": 1, "layer_template": "layers.{}"}


def test_what_hooks_return_is_checked(tmp_path):
    file = tmp_path / "a.wrong"
    file.touch()
    wrong, message = Wrong({"editor": "a"}), "sadr_read_hparams returned dict, not an Hparams"
    with registered(wrong), pytest.raises(ConfigError, match=message):
        summary_of(file)
    with pytest.raises(AttachmentError, match=r"HparamsSummary\.layer: expected int, got '1'"):
        HparamsSummary("a", "b", "1", "layers.{}", True)
    for editor, message in (
        ((1, 2), "sadr_editor returned tuple, not an Editor"),
        (
            lacking(),
            "sadr_editor: lacks model, tokenizer, layer, layer_template, wei",
        ),
        (lacking(**WHOLE, weights="a.b"), "its weights are a text, not a list"),
    ):
        with registered(Wrong(SUMMARY, editor)), pytest.raises(ConfigError, match=message):
            make_editor(file, EditorOptions())


def test_doctor_on_a_file_of_an_editor_that_nobody_declares(tmp_path):
    file = tmp_path / "a.wrong"
    file.touch()
    with registered(Wrong(SUMMARY)):
        shown = sadr("doctor", str(file))
    assert """no adapter declares the editor "None's"; declared are""" in shown.stdout
    assert shown.exit_code == 1


def test_a_prompt_with_other_braces_is_refused():
    with pytest.raises(ConfigError, match=r"--prompt: '\{\} has \{x\}' holds a brace besides"):
        expect_only_subject("--prompt", "{} has {x}")


def test_what_a_toolkit_prints_is_not_kept():
    with silence():
        stream = sys.stdout
        print("much")
    assert stream.closed, "a file that keeps nothing, not a text in memory"


def test_an_end_of_file_says_where(tmp_path, monkeypatch, capsys):
    """Click takes it for the user's own and says "Aborted!"."""

    def ended(*_):
        raise EOFError("cut off")

    monkeypatch.setattr("sadr_plugin.commands._editors.attachabilities", ended)
    told = CliRunner().invoke(build(), ["editors"])
    assert told.exit_code == 1
    told = told.output + capsys.readouterr().err
    assert "Aborted" not in told
    assert "a file ended before it should" in told
    assert "EOFError: cut off" in told
