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

from sadr_plugin import EditorOptions, HparamsSummary
from sadr_plugin._version import plugin_version
from sadr_plugin.commands._arms import arms
from sadr_plugin.commands._doctor import model_obstacle
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError, SadrError
from sadr_plugin.evaluation import load_model

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
def test_whatever_keeps_a_model_from_being_loaded_is_named(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    message = f"model_name: 'far' cannot be loaded: {str(error) or 'KeyError'}"
    with pytest.raises(ConfigError) as raised:
        load_model("far", EditorOptions())
    assert str(raised.value) == message
    assert model_obstacle(HparamsSummary("ROME", "far", 1, "model.layers.{}", None)) == message


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
        "problems": [f"there is no file {file}"],
        "remarks": [],
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
