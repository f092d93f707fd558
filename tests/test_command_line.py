"""The command line: its version, its help, and the files it is given."""

import importlib.util
import re

import pytest
from typer.testing import CliRunner

from sadr_plugin._version import plugin_version
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import SadrError

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
