"""A whole tuning, and the command `sadr tune`."""

import io
import itertools
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

import sadr_plugin
from sadr_plugin import HparamsSummary, hookimpl
from sadr_plugin.commands._tune import _seconds
from sadr_plugin.commands._tune_findings import TuningFindings, expect_writable
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError, DataError, EvaluationError, PositionError
from sadr_plugin.evaluation import (
    Dimension,
    LocalEngine,
)
from sadr_plugin.tuning import (
    Finding,
    Options,
    Runs,
    Setup,
    Space,
    TrialEvaluator,
    Tried,
    Tuner,
)
from tuning_support import (
    Tunable,
    records,
)

pytest.importorskip("optuna")


def test_runs_are_kept(tmp_path):
    editor = Tunable()
    engine = LocalEngine(TrialEvaluator(editor))
    setups = {"a": Setup({"harm": 0.3}), "b": Setup({"harm": 0.0})}
    first = Runs(engine, tmp_path / "r.jsonl").results(setups, records(3))
    count = len(editor.made)
    again = Runs(engine, tmp_path / "r.jsonl")
    assert again.results(setups, records(3)) == first
    assert len(editor.made) == count
    assert [r.arm for r in again.results({"a": setups["a"]}, records(4))] == ["a"] * 4
    assert len(editor.made) == count + 1


def time_by_results(monkeypatch):
    """Let a second of the budget be one result, however fast the machine is."""
    monkeypatch.setattr(
        "sadr_plugin.tuning._tuner.time", SimpleNamespace(monotonic=itertools.count().__next__)
    )


def test_the_whole_way(tmp_path, monkeypatch):
    time_by_results(monkeypatch)
    editor = Tunable()
    engine = LocalEngine(TrialEvaluator(editor))
    with Progress(disable=True) as progress:
        options = Options(seconds=40, records=4, judged=4)
        found = Tuner(editor, engine, tmp_path, options, progress).run(records(10))
    assert found.known.unknown == 0
    assert found.best is None or found.verdict is not None
    assert len(found.tried) > 2
    unseen = {r.record for r in found.judged}
    seen = {r.record for tried in found.tried for r in tried.results}
    assert not unseen & seen


def test_the_search_begins_with_what_the_check_up_found(tmp_path, monkeypatch):
    editor = Tunable()
    found = [Finding("fine", True), Finding("loose", False, {"size": 0.5})]
    monkeypatch.setattr("sadr_plugin.tuning._tuner.check_up", lambda *_: found)
    time_by_results(monkeypatch)
    with Progress(disable=True) as progress:
        options = Options(seconds=10, records=4, judged=4)
        engine = LocalEngine(TrialEvaluator(editor))
        tried = Tuner(editor, engine, tmp_path, options, progress).run(records(10)).tried
    assert tried
    assert {one.setup.settings["size"] for one in tried if one.number < 4} == {0.5}


class Unwilling(Tunable):
    """Fails on some records."""

    def __init__(self, *keys):
        super().__init__()
        self.keys = keys

    def configured(self, settings):
        other = Unwilling(*self.keys)
        other.model, other.tokenizer, other.made = self.model, self.tokenizer, self.made
        other.values = {**self.values, **settings}
        return other

    def edit(self, records, sadr):
        if records[0].key in self.keys:
            raise RuntimeError("no place for the subject")
        super().edit(records, sadr)


def tune_with(editor, tmp_path, monkeypatch, count=16, **options):
    time_by_results(monkeypatch)
    tmp_path.mkdir(exist_ok=True)
    options = Options(**{"seconds": 20, "records": 6, "judged": 8, **options})
    with Progress(disable=True) as progress:
        tuner = Tuner(editor, LocalEngine(TrialEvaluator(editor)), tmp_path, options, progress)
        return tuner.run(records(count))


def test_records_that_the_editor_cannot_edit_are_left_out(tmp_path, monkeypatch):
    half = tune_with(Tunable(), tmp_path / "first", monkeypatch).tried[0].asked
    failing = next(iter(half))
    found = tune_with(Unwilling(failing), tmp_path / "second", monkeypatch)
    assert "the editor fails on 1 of" in found.findings[-1].text
    assert found.tried
    assert all(failing not in {r.record for r in tried.results} for tried in found.tried)
    with pytest.raises(DataError, match=r"without an error on \d of \d records"):
        tune_with(Unwilling(*half), tmp_path / "third", monkeypatch)


def test_few_records_are_shared_between_trials_and_the_best(tmp_path, monkeypatch):
    found = tune_with(Tunable(), tmp_path, monkeypatch, count=20, records=16)
    assert len(found.tried[0].asked) == 6, "two thirds of the half"
    finals = [json.loads(line) for line in (tmp_path / "finals.jsonl").read_text().splitlines()]
    assert not {line["record"] for line in finals} & set(found.tried[0].asked)


def test_a_second_test_on_the_same_records_is_named(tmp_path, monkeypatch):
    found = tune_with(Tunable(), tmp_path, monkeypatch)
    assert found.again == 0
    file = tmp_path / f"judged-{found.best.number}.jsonl"
    file.rename(tmp_path / "judged-99.jsonl")
    again = tune_with(Tunable(), tmp_path, monkeypatch)
    assert again.again == 1
    shown = Console(record=True, width=200, file=io.StringIO())
    TuningFindings("Small", again, Tunable()).show(shown)
    assert "no fair test any more: 1 other settings were tested" in shown.export_text()


def test_a_small_number_is_read_as_a_number(tmp_path):
    """PyYAML, which EasyEdit uses, reads 5e-05 as a text."""
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("ruamel.yaml")
    source, target = tmp_path / "a.yaml", tmp_path / "b.yaml"
    source.write_text("v_lr: 0.1 # of the loop\nother: 1.0e-5\n")
    best = Tried(0, {}, Setup({"size": 5e-05}, {"gamma": 1e-07, "stop_at": 0.5}), {})
    tuning = SimpleNamespace(best=best)
    findings = TuningFindings("Small", tuning, Tunable())
    findings.write(source, target)
    read = yaml.safe_load(target.read_text())
    assert read == {"v_lr": 0.1, "other": 1e-5, "size": 5e-05} | {
        "sadr": {"gamma": 1e-07, "stop_at": 0.5}
    }
    assert yaml.safe_load(findings._settings(best))["size"] == 5e-05


def test_halves_of_a_run_without_any_result_do_not_count(tmp_path):
    """The run ended between the choice of the records and the first edit."""
    own, options = Tunable(), Options(seconds=0, records=4, judged=4)
    halves, results = tmp_path / "halves.json", tmp_path / "results.jsonl"

    def expect_same(chosen):
        with Progress(disable=True) as progress:
            engine = LocalEngine(TrialEvaluator(own))
            Tuner(own, engine, tmp_path, options, progress)._expect_same(chosen, [])

    expect_same(records(4))
    expect_same(records(5))
    assert len(json.loads(halves.read_text())["chosen"]) == 5
    results.write_text("{}\n")
    with pytest.raises(ConfigError, match="differ from the earlier run"):
        expect_same(records(4))
    halves.write_text(halves.read_text(), encoding="utf-8-sig")
    expect_same(records(5))
    halves.write_text("{")
    with pytest.raises(ConfigError, match=r"--resume: .*halves\.json cannot be read: Expecting"):
        expect_same(records(5))


class TunableStranger:
    @hookimpl
    def sadr_read_hparams(self, file):
        if file.suffix != ".yaml":
            return None
        return HparamsSummary("Small", "tiny", 1, "model.layers.{}", sadr=None, settings={"a": 1})

    @hookimpl
    def sadr_editor(self, file, options):
        return Tunable()


def sadr_tune(tmp_path, *options):
    (tmp_path / "small.yaml").write_text("size: 1.0  # of the edit\nother: kept\n")
    data = [
        {
            "prompt": f"the {record.subject} is in",
            "subject": record.subject,
            "target_new": record.target_new,
            "ground_truth": record.target_true,
            "portability": {},
            "locality": {
                "Relation_Specificity": [
                    {"prompt": q.prompt, "ground_truth": q.right} for q in record.relations
                ]
            },
        }
        for record in records(10)
    ]
    (tmp_path / "data.json").write_text(json.dumps(data))
    plugin, manager = TunableStranger(), sadr_plugin.plugin_manager()
    manager.register(plugin, "tunable-stranger")
    try:
        given = ["tune", tmp_path / "small.yaml", "--data", tmp_path / "data.json"]
        given += ["--out", tmp_path / "out", "--records", 4, "--judged", 4, *options]
        return CliRunner().invoke(build(), list(map(str, given)), catch_exceptions=False)
    finally:
        manager.unregister(plugin)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800)]
)
def test_budgets(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30m!", "1d"])
def test_wrong_budgets(text):
    with pytest.raises(ConfigError, match="--budget: expected a time"):
        _seconds(text)


def test_the_command_writes_a_file_to_use_a_page_and_goes_on(tmp_path):
    pytest.importorskip("ruamel.yaml")
    pytest.importorskip("altair")
    files = ["--write", tmp_path / "tuned.yaml", "--report", tmp_path / "page.html"]
    options = ["--budget", "5s", *files, "--json", tmp_path / "tuned.json"]
    shown = sadr_tune(tmp_path, *options)
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "tuned.json").read_text())
    assert found["verdict"]["sentence"] in " ".join(shown.output.split())
    written = (tmp_path / "tuned.yaml").read_text()
    assert "# of the edit" in written
    assert "other: kept" in written
    assert f"gamma: {found['best']['sadr']['gamma']}" in written
    page = (tmp_path / "page.html").read_text()
    assert "What was tried" in page
    with pytest.raises(ConfigError, match="holds a run; continue it with --resume"):
        sadr_tune(tmp_path, *options)
    again = sadr_tune(tmp_path, "--budget", "1s", "--json", tmp_path / "again.json", "--resume")
    assert again.exit_code == 0, again.output
    more = json.loads((tmp_path / "again.json").read_text())
    before = [tried["hparams"] for tried in found["tried"]]
    assert [tried["hparams"] for tried in more["tried"]][: len(before)] == before


def test_a_file_to_write_of_another_kind(tmp_path):
    with pytest.raises(ConfigError, match=r"--write: .*tuned\.json has to end in \.yaml"):
        sadr_tune(tmp_path, "--write", tmp_path / "tuned.json")


def test_a_budget_in_which_nothing_is_finished(tmp_path):
    shown = sadr_tune(tmp_path, "--budget", "0s", "--write", tmp_path / "tuned.yaml")
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "No setting was tried to the end in this time; give a longer --budget." in text
    assert "tuned.yaml is not written" in text
    assert not (tmp_path / "tuned.yaml").exists()


def test_a_search_in_which_all_edits_failed_is_no_success(tmp_path, monkeypatch):
    """What was found is written all the same, and continuing the search does not mend it."""
    edit = Tunable.edit

    def fail(self, records, sadr):
        if sadr and sadr["gamma"]:  # the plain edits of a tuning have γ = 0
            raise PositionError("no such token")
        return edit(self, records, sadr)

    monkeypatch.setattr(Tunable, "edit", fail)
    for more in ((), ("--resume",)):
        with pytest.raises(
            EvaluationError, match=r"none of the \d+ trials; \d+ edits failed, the first: no such"
        ):
            sadr_tune(tmp_path, "--budget", "3s", "--json", tmp_path / "tuned.json", *more)
        found = json.loads((tmp_path / "tuned.json").read_text())
        assert found["best"] is None
        (tmp_path / "tuned.json").unlink()


def test_options_of_tune_that_would_do_nothing(tmp_path):
    with pytest.raises(ConfigError, match="--corpus: for the statistics of --layers"):
        sadr_tune(tmp_path, "--corpus", "python")
    with pytest.raises(ConfigError, match=r"^layers: none of 3-5 can be tried with this editor"):
        sadr_tune(tmp_path, "--layers", "3-5")
    with pytest.raises(ConfigError, match="--workers: with --engine ray, say how many"):
        sadr_tune(tmp_path, "--engine", "ray")
    with pytest.raises(ConfigError, match="--write: there is no folder"):
        sadr_tune(tmp_path, "--write", tmp_path / "none" / "tuned.yaml")


def test_a_layer_that_is_no_choice_and_what_stands_under_keep():
    own = {"layer": Dimension(choices=[3, 4])}
    first = Space(own, True, 4, {}).first({"layer": 9})
    assert all("layer" not in parameters for parameters in first)
    kept = Space(own, True, 4, {}, {"openings": ("{} ist",), "weight": 9.0})
    sadr = kept.setup({**first[1], "layer": 3}).sadr
    assert sadr["keep"] == {"openings": ("{} ist",), "weight": 1.5, "distracted": 5.0}


def test_without_optuna_the_command_ends_before_it_loads_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    arguments = ["tune", str(tmp_path / "none.yaml"), "--data", "builtin"]
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[tune\]'"):
        CliRunner().invoke(build(), arguments, catch_exceptions=False)


def test_without_ruamel(tmp_path, monkeypatch):
    source = tmp_path / "a.yaml"
    source.touch()
    for name in ("ruamel", "ruamel.yaml"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[tune\]'"):
        expect_writable(tmp_path / "b.yaml", source)
