"""The evaluation's engine, with an editor small enough to see through."""

import json
import random
import re
import shutil
import sys
from importlib.util import find_spec

import numpy
import pytest
import torch
from rich.console import Console

from evaluation_support import (
    ARMS,
    Acting,
    Elsewhere,
    Idle,
    SmallEditor,
    Stranger,
    arm,
    evaluate,
    plain_edits,
    records,
    sadr_eval,
    without_times,
)
from sadr_plugin import hookimpl
from sadr_plugin.commands._arms import expecting_results
from sadr_plugin.errors import (
    ConfigError,
    EvaluationError,
    PositionError,
)
from sadr_plugin.evaluation import (
    UNEDITED,
    EvaluationRun,
    LocalEngine,
    Result,
    SingleEvaluator,
    read_results,
    summarise,
    table,
    write,
)
from sadr_plugin.pages import metrics, save
from sadr_plugin.testing import registered


def test_every_record_in_every_arm(tmp_path):
    seen = []
    editor = SmallEditor()
    evaluation = EvaluationRun(
        LocalEngine(SingleEvaluator(editor, ARMS)), tmp_path / "results.jsonl"
    )
    results = evaluation.run(records(6), seen.append)
    assert seen == results
    assert [r.record for r in results] == [key for key in "012345" for _ in range(3)]
    assert [r.arm for r in results[::3]] == [UNEDITED] * 6
    turns = [tuple(r.arm for r in results[place : place + 2]) for place in range(1, 18, 3)]
    assert set(turns) == {("plain", "sadr"), ("sadr", "plain")}, "no arm is always the first"
    assert [key for key, _ in editor.edits] == [key for key in "012345" for _ in range(2)]
    unedited, plain, sadr = (arm(results, name, "1") for name in (UNEDITED, "plain", "sadr"))
    assert unedited.scores["relation"] != plain.scores["relation"] != sadr.scores["relation"]
    assert (unedited.steps, plain.steps) == (0, 4)
    assert unedited.drift == 0
    assert max(result.drift for result in results) > 0
    assert unedited.fluency != plain.fluency
    assert results[0].scores["relation"] == []
    assert read_results(tmp_path / "results.jsonl") == results


@pytest.mark.parametrize(
    ("editor", "warned"), [(SmallEditor(), ["0"]), (Acting(plain="1"), ["1"]), (Acting(), [])]
)
def test_an_arm_on_which_sadr_does_not_act_is_warned_of_once(tmp_path, editor, warned):
    assert plain_edits(lambda: evaluate(tmp_path, editor)) == warned
    acted = {(r.arm, r.acted) for r in read_results(tmp_path / "results.jsonl")}
    assert {(UNEDITED, None), ("plain", None), ("sadr", not warned or "1" in warned)} <= acted


def test_an_edit_that_changes_no_weight_is_warned_of_once_for_each_arm(tmp_path):
    with pytest.warns(UserWarning, match="changed none of the weights") as warned:
        evaluate(tmp_path, Idle())
    told = [str(w.message).split(",")[0] for w in warned if "changed none" in str(w.message)]
    assert sorted(told) == ["SADR: in the arm plain", "SADR: in the arm sadr"]
    assert {r.changed for r in read_results(tmp_path / "results.jsonl")} == {None, False}
    (tmp_path / "sound").mkdir()
    assert {r.changed for r in evaluate(tmp_path / "sound")} == {None, True}


def test_an_editor_that_names_another_layer_than_its_edits_ends_the_run(tmp_path):
    message = r"record 0, sadr: Editor\.layer is 0, but SADR's report of the edit names layer 1"
    with pytest.raises(EvaluationError, match=message):
        evaluate(tmp_path, Elsewhere(), skip_bad=True)


def test_the_random_generators_are_given_back(tmp_path):
    """Also between results, to whoever takes them."""
    random.seed(0)
    numpy.random.seed(0)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    states = []

    def seen(_):
        states.append(torch.equal(torch.get_rng_state(), before[0]))

    evaluation = EvaluationRun(
        LocalEngine(SingleEvaluator(SmallEditor(), ARMS)), tmp_path / "results.jsonl"
    )
    evaluation.run(records(1), seen)
    assert states == [True] * 3
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]


def test_two_runs_with_one_seed_agree_and_another_does_not(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        runs.append(without_times(evaluate(tmp_path / name, seed=seed)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_picture_of_the_summary(tmp_path, monkeypatch):
    summaries = summarise(evaluate(tmp_path))
    save(metrics(summaries, "Small editor"), tmp_path / "summary.svg")
    picture = (tmp_path / "summary.svg").read_text()
    # Every metric's label and every arm's, as text.
    for shown in ("NS", "DNS", "RS", "plain", "sadr", "Small editor"):
        assert f">{shown}</text>" in picture
    assert ">PS</text>" not in picture, "no record has a paraphrase"
    save(metrics(summaries, "Small editor"), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[report\]'"):
        metrics(summaries, "")


class Drawing(SmallEditor):
    """Draws from all generators that there are."""

    def edit(self, records, sadr):
        super().edit(records, sadr)
        self.edits[-1] = (random.random(), numpy.random.rand(), torch.rand(1).item())


def test_every_generator_starts_from_the_seed(tmp_path):
    draws = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        editor = Drawing()
        evaluate(tmp_path / name, editor, count=1, seed=seed)
        draws.append(editor.edits)
    assert draws[0] == draws[1]
    assert not set(draws[0][0]) & set(draws[2][0])


def test_what_is_written(tmp_path):
    results = evaluate(tmp_path)
    summaries = write(tmp_path, results, {"seed": 0}, ["plain", "sadr"])
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["about"] == {"seed": 0}
    assert [arm["arm"] for arm in data["arms"]] == [UNEDITED, "plain", "sadr"]
    assert data["arms"][1]["accuracy"]["relation"]["questions"] == 1
    assert data["arms"][1]["versus"].keys() == {UNEDITED, "sadr"}
    assert data["arms"][1]["corrected"].keys() == {"sadr"}, "nothing is claimed of the unedited"
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1
    tex = (tmp_path / "summary.tex").read_text()
    assert tex.count(r"\\") == 4
    shown = table(summaries, "title")
    assert shown.row_count == 3
    console = Console(width=80)
    with console.capture() as capture:
        console.print(shown)
    assert "…" not in capture.get(), "nothing is cut off on a terminal of 80 columns"


class WithoutEditor:
    """One that has not heard of evaluations."""

    @hookimpl
    def sadr_read_hparams(self, file):
        return Stranger().sadr_read_hparams(file)


def test_a_strangers_editor_is_evaluated(tmp_path):
    with pytest.raises(ConfigError, match=r"hparams\.small: no installed adapter knows it"):
        sadr_eval(tmp_path)
    for plugin, options in ((Stranger(), []), (Stranger(), ["--mode", "batch"])):
        (tmp_path / "out").mkdir()
        with registered(plugin):
            shown = sadr_eval(tmp_path, *options, "--json", str(tmp_path / "out" / "summary.json"))
        assert shown.exit_code == 0, shown.output
        assert "Small, 2 records of data.json" in shown.output
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["about"]["arms"]
        shutil.rmtree(tmp_path / "out")
    message = r"does not say how to evaluate its editor"
    with registered(WithoutEditor()), pytest.raises(ConfigError, match=message):
        sadr_eval(tmp_path)


def test_no_results_have_no_summary():
    assert summarise([]) == []


def test_brackets_of_a_title_are_shown(tmp_path):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(summarise(evaluate(tmp_path)), "facts[new].json"))
    assert "facts[new].json" in capture.get()


def test_the_threads_of_the_run_are_written(tmp_path):
    threads = torch.get_num_threads() + 1
    (tmp_path / "out").mkdir()
    with registered(Stranger()):
        assert sadr_eval(tmp_path, "--threads", threads).exit_code == 0
    about = json.loads((tmp_path / "out" / "summary.json").read_text())["about"]
    assert about["threads"] == threads


class Failing(Stranger):
    """Its editor fails on every record in some arms."""

    def __init__(self, *arms):
        self.arms = arms

    @hookimpl
    def sadr_editor(self, file, options):
        arms = self.arms

        class Editor(SmallEditor):
            def edit(self, records, sadr):
                if ("plain" if sadr is None else "sadr") in arms:
                    raise PositionError("no such token")
                super().edit(records, sadr)

        return Editor()


@pytest.mark.parametrize("mode", ["single", "batch", "sequence"])
@pytest.mark.parametrize("arms", [("plain", "sadr"), ("sadr",)])
def test_an_arm_without_one_result_is_no_success(tmp_path, mode, arms):
    """What is finished is written all the same, and continuing the run does not mend it."""
    shown = ", ".join(f"{arm} (failed: 2)" for arm in arms)
    told = re.escape(f"no edit succeeded in {shown}; the first: no such token")
    page = [] if find_spec("altair") is None else ["--report", tmp_path / "page.html"]
    for more in (page, ["--resume", *page]):
        with registered(Failing(*arms)), pytest.raises(EvaluationError, match=told):
            sadr_eval(tmp_path, "--mode", mode, *more)
        assert (tmp_path / "out" / "summary.json").exists()
        results = read_results(tmp_path / "out" / "results.jsonl")
        assert {r.arm for r in results if r.error} == set(arms)


def result(record, arm, error=None, when="single"):
    return Result(record, arm, {}, None, None, None, error=error, when=when)


BY_TURNS = [
    result("0", UNEDITED),
    result("1", UNEDITED),
    result("0", "plain", "none"),
    result("1", "plain"),
    result("0", "sadr"),
    result("1", "sadr", "other"),
]


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (BY_TURNS, "no record was edited in every arm; edits failed in plain (failed: 1), sadr"),
        (BY_TURNS[:4], "no edit succeeded in sadr (failed: 0); the first: none"),
        ([], "no edit succeeded in plain (failed: 0), sadr (failed: 0)"),
    ],
)
def test_arms_that_cannot_be_compared_are_no_success(results, told):
    """Nor is the error of a chart, which has nothing to draw then, the one to show."""
    with (
        pytest.raises(EvaluationError, match=re.escape(told)),
        expecting_results(results, ["plain", "sadr"]),
    ):
        raise EvaluationError("nothing to draw")


def test_an_error_of_a_chart_is_shown_where_there_are_results():
    good = [result("0", "plain"), result("0", "sadr"), *BY_TURNS]
    with expecting_results(good, ["plain", "sadr"]):
        pass
    with pytest.raises(EvaluationError, match="too large"), expecting_results(good, ["plain"]):
        raise EvaluationError("too large")
