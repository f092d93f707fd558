import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

import sadr_plugin
from sadr_easyedit import corpus, smollm2
from sadr_easyedit.commands.demo import ARMS, Outcome, Row, Settings, show
from sadr_easyedit.corpus import python_manual
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError, PositionError
from sadr_plugin.evaluation import Question


def run(*arguments):
    return CliRunner().invoke(build(), ["demo", *arguments], catch_exceptions=False)


def test_the_demo_shows_and_writes_both_arms(tmp_path, monkeypatch):
    from easyeditor.models.rome import rome_main

    def two_contexts(*_):
        rome_main.CONTEXT_TEMPLATES_CACHE = ["{}", "However {}"]
        return rome_main.CONTEXT_TEMPLATES_CACHE

    monkeypatch.setattr(rome_main, "CONTEXT_TEMPLATES_CACHE", None)
    monkeypatch.setattr(rome_main, "get_context_templates", two_contexts)
    monkeypatch.setattr(smollm2, "statistics_folder", lambda: tmp_path / "stats")
    monkeypatch.setattr(corpus, "python_manual", lambda: python_manual()[:500])
    monkeypatch.setenv("COLUMNS", "80")
    file = tmp_path / "demo.json"
    page = tmp_path / "demo.html"
    shown = run("--steps", "6", "--gamma", "5", "--json", str(file), "--report", str(page))
    assert shown.exit_code == 0
    for text in ("plain ROME", "with SADR", "distracted", "drift (at γ = 1)"):
        assert text in shown.stdout
    assert "Executing ROME" not in shown.stdout
    written = page.read_text()
    assert "Attention, head by head" in written
    assert "probability of the target" in written
    assert len(written) < 2_000_000
    data = json.loads(file.read_text())
    assert [row["kind"] for row in data["rows"]] == (
        ["edit", "paraphrase", *["relation"] * 2, *["neighbour"] * 2, *["distracted"] * 3]
    )
    for row in data["rows"]:
        for arm in ("before", "plain", "sadr"):
            cell = f"{row[arm]['right']:.3f}/{row[arm]['edited_in']:.3f}"
            assert cell in shown.stdout, "nothing is cut off on a terminal of 80 columns"
    edit = data["rows"][0]
    # Facts of the model and the edit, not of the demo: it knew Paris, then it is told Rome.
    assert edit["before"]["right"] > 0.5 > edit["plain"]["right"]
    assert edit["plain"]["edited_in"] > 10 * edit["before"]["edited_in"]
    assert {name: arm["steps"] for name, arm in data["arms"].items()} == {"plain": 6, "sadr": 6}
    assert data["arms"]["sadr"]["drift"] < data["arms"]["plain"]["drift"]
    assert sadr_plugin.attached() == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--prompt", "no subject"], PositionError, "exactly once"),
        (["--prompt", "{} in {x}"], ConfigError, "holds a brace besides the subject's"),
        (["--relation", "no answer"], ConfigError, 'expected "PROMPT=ANSWER"'),
        (["--json", "/nowhere/at/all.json"], ConfigError, "there is no folder /nowhere/at"),
        (["--json", "/tmp"], ConfigError, "/tmp is a folder"),
    ],
)
def test_bad_options(arguments, error, message):
    with pytest.raises(error, match=message):
        run(*arguments)


def test_errors_of_the_plugin_end_in_one_line(monkeypatch, capsys):
    from sadr_plugin.commands import cli

    monkeypatch.setattr("sys.argv", ["sadr", "demo", "--prompt", "no subject"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("sadr: the prompt 'no subject' must hold")


def test_brackets_of_a_prompt_are_shown():
    settings = Settings("A", "{} [big] is in [/b]", "Rome", 5, 1.0, 1, 0)
    row = Row("edit", Question("A [big] is in [/b]", "[it]", "Rome"))
    row.probabilities.update(dict.fromkeys(ARMS, (0.5, 0.5)))
    outcomes = dict.fromkeys(("plain", "sadr"), Outcome(1, 0.0, 0.0))
    console = Console(width=200)
    with console.capture() as capture:
        show(console, settings, [row], outcomes)
    for text in ("A [big] is in [/b] → Rome", "[it]"):
        assert text in capture.get()
