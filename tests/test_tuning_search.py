"""The search for settings: what a model knows, what is tried, and which trial is the best."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from sadr_plugin.errors import ChangedModelError, DataError
from sadr_plugin.evaluation import (
    UNEDITED,
    Dimension,
    LocalEngine,
    Question,
    RayEngine,
    Record,
    Result,
    Scorer,
)
from sadr_plugin.evaluation._metrics import TASKS
from sadr_plugin.tuning import (
    PLAIN,
    Baselines,
    Objectives,
    Options,
    Runs,
    Setup,
    Space,
    TrialEvaluator,
    TrialTask,
    Tried,
    Tuner,
    known,
    margin,
    objectives,
    questions,
    split,
)
from support import tiny_llama, word_tokenizer
from tuning_support import (
    RIGHT,
    WRONG,
    Tunable,
    answers,
    records,
    result,
    run_search,
    searching,
    space,
)

pytest.importorskip("optuna")


def test_what_a_model_knows():
    good = records(3)
    true = good[0]
    swapped = Record(
        "other",
        true.subject,
        true.template,
        true.target_true,
        true.target_new,
        (),
        (),
        (),
        true.relations,
    )
    lost = Question(
        good[1].relations[0].prompt, good[1].relations[0].wrong, good[1].relations[0].right
    )
    both = Record(**{**vars(good[1]), "relations": (*good[1].relations, lost)})
    nothing = Record(**{**vars(good[2]), "relations": (lost,)})
    scorer = Scorer(tiny_llama(), word_tokenizer())
    found = known([true, swapped, both, nothing], scorer)
    assert [record.key for record in found.records] == ["0", "1"]
    assert (found.unknown, found.nothing_to_keep, found.dropped) == (1, 1, 1)
    assert found.records[1].relations == good[1].relations


def test_halves_share_no_subject_and_are_the_same_again():
    many = [
        Record(str(number), f"subject {number // 2}", "{} is in", "rome", "paris")
        for number in range(20)
    ]
    chosen, judged = split(many, seed=1)
    assert len(chosen) == len(judged) == 10
    assert not {r.subject for r in chosen} & {r.subject for r in judged}
    assert split(many, seed=1) == (chosen, judged)
    assert split(many, seed=2) != (chosen, judged)
    with pytest.raises(DataError, match="the model knows 7 of the records"):
        split(many[:7], seed=0)
    alike = [Record(str(n), "rome", "{} is in", "rome", "paris") for n in range(20)]
    with pytest.raises(DataError, match="about too few subjects: 1"):
        split(alike, seed=0)


def test_objectives():
    even = [(-1.0, -1.0)]
    pair = [
        result("0", "t", efficacy=[(0.0, -50.0)], relation=[(0.0, -50.0)], paraphrase=even),
        result("1", "t", efficacy=[(-50.0, 0.0)], relation=even, paraphrase=even),
    ]
    found = objectives(pair, questions(pair))
    assert found.specificity == pytest.approx(0.75)
    assert found.generality == pytest.approx(0.5)
    assert (found.reworded, found.efficacy, found.records) == (0.0, 0.5, 2)
    nan = float("nan")
    ruined = objectives([result("3", "t", efficacy=[(nan, nan)], relation=[(nan, nan)])], {})
    assert (ruined.specificity, ruined.efficacy) == (0.0, 0.0)


def every_kind(record, **scores):
    """A result as an evaluator makes it: a metric without questions has an empty list."""
    empty = dict.fromkeys(TASKS, ())
    return replace(result(record, "t"), scores={**empty, **result(record, "t", **scores).scores})


def test_a_failed_edit_breaks_what_is_asked_about_it_and_no_more():
    sure = [(0.0, -50.0)]
    made = [every_kind(str(n), efficacy=sure, relation=sure * 2) for n in range(3)]
    made.append(every_kind("3", efficacy=sure))
    asked = questions(made)
    whole = objectives(made, asked)
    assert (whole.specificity, whole.efficacy) == (pytest.approx(1), 1.0)
    assert whole.generality == pytest.approx(1), "without paraphrases, the facts themselves count"
    failed = [Result(str(n), "t", {}, None, None, None, error="no") for n in range(4)]
    one_lost = objectives([failed[0], *made[1:]], asked)
    assert one_lost.specificity == pytest.approx(4 / 6), "two of six relations"
    assert one_lost.generality == pytest.approx(3 / 4)
    assert one_lost.efficacy == pytest.approx(3 / 4)
    without_questions = objectives([*made[:3], failed[3]], asked)
    assert without_questions.specificity == pytest.approx(1)
    assert objectives(failed, asked) == Objectives(0, 0, 0, 0, 4)


def test_a_search_finds_what_is_better_and_goes_on(tmp_path):
    editor = Tunable()
    search = run_search(tmp_path, editor, trials=20)
    assert len(search.tried) == 20
    assert any(tried.given_up for tried in search.tried), "what cannot win is left"
    for tried in search.tried:
        assert tried.given_up == (len(tried.results) < 5)
        sadr = tried.setup.sadr
        assert (sadr["layers"], sadr["num_grad_steps"]) == ([3], 4)
        assert 0.003 <= sadr["gamma"] <= 30
        assert 0.5 <= sadr["stop_at"] <= 0.95
    specific = {
        tried.setup.settings["harm"]: tried.objectives().specificity for tried in search.finished
    }
    assert max(specific, key=specific.get) == 0.0
    again = searching(tmp_path, Tunable())
    assert [t.setup for t in again.tried] == [t.setup for t in search.tried]
    assert [t.objectives() for t in again.tried] == [t.objectives() for t in search.tried]
    more = run_search(tmp_path, editor, trials=3)
    assert len(more.tried) == 23
    numbers = [tried.number for tried in more.tried]
    assert len(set(numbers)) == len(numbers)


def tried_with(search, *outcomes):
    """Trials that came to (specificity, generality, failures) as told."""
    for number, (specificity, generality, failures) in enumerate(outcomes):
        tried = Tried(number, {}, Setup(), {}, [Result("0", "x", {}, 0, 0, 0)] * 5)
        found = Objectives(specificity, generality, generality, 1 - failures / 5, 5)
        object.__setattr__(tried, "objectives", lambda count=None, found=found: found)
        search.tried.append(tried)


def test_the_front_and_the_best_of_it(tmp_path):
    search = searching(tmp_path, Tunable())
    tried_with(search, (0.9, 0.5, 0), (0.8, 0.8, 1), (0.7, 0.7, 0), (0.6, 0.9, 0), (1, 1, 2))
    assert [tried.number for tried in search.front()] == [0, 1, 3], "one edit of five may fail"
    tried_with(search, (0.9, 0.4, 0), (0.9, 0.5, 0))
    assert [tried.number for tried in search.front()] == [0, 1, 3, 1], (
        "as good in one, worse in one"
    )


def test_a_trial_that_ended_early_is_placed_by_the_one_that_was_better(tmp_path):
    search = searching(tmp_path, Tunable())
    sure, even = (0.0, -50.0), (0.0, 0.0)
    kinds = {"efficacy": [sure], "relation": [sure], "paraphrase": [sure]}
    last = {**kinds, "relation": [even]}
    better = [Result(str(n), "x", kinds if n < 4 else last, 0, 0, 0) for n in range(5)]
    asked = questions(better)
    search.tried.append(Tried(0, {}, Setup(), asked, better))
    half = {**kinds, "relation": [even], "paraphrase": [even]}
    worse = Tried(1, {}, Setup(), asked, [Result(str(n), "x", half, 0, 0, 0) for n in range(4)])
    assert search._is_hopeless(worse)
    worse.given_up = True
    found = search._expected(worse)
    assert found.specificity == pytest.approx(0.9 - 0.5), "0.5 below the other on four records"
    assert found.generality == pytest.approx(0.5)
    first = better[0]
    failing = replace(first, scores={**kinds, "efficacy": [(-1.0, 0.0)]})
    search.tried[0].results[0] = failing
    assert not search._is_hopeless(worse), "what fails more often is not better"
    search.tried[0].results[0] = first
    search.tried[0].results[3:] = [failing, failing]
    worse.results[3] = replace(worse.results[3], scores={**half, "efficacy": [(-1.0, 0.0)]})
    assert worse.objectives().efficacy == search.tried[0].objectives(4).efficacy
    assert not search._is_hopeless(worse), "what fails too often is no measure"


@pytest.mark.parametrize(
    ("tried", "plain", "expected"),
    [
        ({}, {"kept": 0, "distracted": 0}, 1.0),
        ({"kept": 2}, {"kept": 0, "distracted": 0}, 0.0),
        ({"kept": 3}, {"kept": 2, "distracted": 0}, 0.0),
        ({"distracted": 0}, {"kept": 0, "distracted": 0}, -1.0),
        ({"reworded": 3}, {"kept": 0}, -4.0),
        ({"made": 3}, {"kept": 0}, -4.0),
        ({"kept": 3}, {}, -4.0),
        ({"near": 3}, {"kept": 0}, -4.0),
        ({"near": 3}, {"kept": 0, "near": 1}, 1.0),
        ({"reworded": 4}, {"kept": 0, "reworded": 2}, 1.0),
    ],
)
def test_the_target_that_is_met_worst(tried, plain, expected):
    baselines = Baselines(answers(), answers(**plain))
    assert margin(answers(**tried), baselines) == pytest.approx(expected)


def test_targets_by_what_the_unedited_model_knows():
    unedited, plain = answers(distracted=3), answers(distracted=1)
    assert margin(unedited, Baselines(unedited, plain)) == pytest.approx(1.0)
    assert margin(answers(distracted=2), Baselines(unedited, plain)) == pytest.approx(0.0)


def many(wrong, count=100):
    pairs = [WRONG] * wrong + [RIGHT] * (count - wrong)
    return [Result("0", "x", {"efficacy": [RIGHT], "relation": pairs}, 0, 0, 0)]


def test_an_answer_that_plain_lost_alone_decides_little():
    baselines = Baselines(many(0), many(1))
    assert margin(many(1), baselines) == pytest.approx(-0.1)
    assert margin(many(0), baselines) == pytest.approx(1.0)


def test_a_target_without_questions_decides_nothing():
    plain = [every_kind("0", efficacy=[RIGHT], relation=[WRONG])]
    tried = [every_kind("0", efficacy=[RIGHT], relation=[RIGHT])]
    assert margin(tried, Baselines(tried, plain)) == pytest.approx(1.0)


def test_what_is_near_the_targets_comes_first(tmp_path):
    search = searching(tmp_path, Tunable())
    search._baselines = Baselines(answers(), answers(kept=0))
    outcomes = {"kept": 2, "reworded": 3}, {"kept": 3}, {"kept": 4, "made": 3}, {"kept": 3}
    for number, outcome in enumerate(outcomes):
        results = answers(**outcome)
        if number == 3:  # as good as another by right and wrong, and surer
            results[0].scores["relation"][0] = (0.0, -9.0)
        search.tried.append(Tried(number, {}, Setup(), {}, results))
    assert [tried.number for tried in search.ranked()] == [3, 1, 2, 0]


def test_the_best_is_chosen_among_the_first_on_more_records(tmp_path, monkeypatch):
    asked = []

    class Outcomes:
        """In place of edits: on more records, the second trial turns out the better one."""

        def __init__(self, *_):
            pass

        def missing(self, setups, records):
            return []

        def results(self, setups, records):
            asked.append(list(setups))
            kept = {UNEDITED: 4, PLAIN: 0, "trial 0": 0, "trial 1": 4}
            return [replace(answers(kept=kept[name])[0], arm=name) for name in setups]

    monkeypatch.setattr("sadr_plugin.tuning._tuner.Runs", Outcomes)
    lucky, steady, worse = (
        Tried(number, {}, Setup(), {}, answers(kept=kept))
        for number, kept in ((0, 4), (1, 3), (2, 1))
    )
    with Progress(disable=True) as progress:
        engine = LocalEngine(TrialEvaluator(Tunable()))
        tuner = Tuner(Tunable(), engine, tmp_path, Options(seconds=1.0), progress)
        baselines = Baselines(answers(), answers(kept=0))
        assert tuner._best([lucky, steady], baselines, []) is lucky
        assert tuner._best([steady], baselines, records(1)) is steady
        assert tuner._best([], baselines, records(1)) is None
        assert asked == [], "there is nothing to choose between"
        assert tuner._best([lucky, steady], baselines, records(1)) is steady
        assert tuner._best([steady, worse], baselines, records(1)) is steady
    both = [UNEDITED, PLAIN]
    assert asked.pop() == ["trial 1"], "the best is confirmed, and the other not even tried"
    assert asked.pop() == both
    assert asked == [both, ["trial 0"], ["trial 1"]]


def test_first_come_the_recipes_with_the_editor_as_it_is(tmp_path):
    editor = Tunable(size=2.0)
    first = space(editor).first(editor.settings())
    assert len(first) == 6
    search = searching(tmp_path, editor, first)
    search.run(LocalEngine(TrialEvaluator(editor)), lambda: len(search.tried) < 2)
    assert editor.made[0][1] == {"size": 2.0, "harm": 1.0}
    assert editor.made[0][2]["gamma"] == first[0]["gamma"]
    done = {editor_values["gamma"] for _, _, editor_values in editor.made}
    assert done == {parameters["gamma"] for parameters in first[:2]}
    again = searching(tmp_path, editor, first)
    again.run(LocalEngine(TrialEvaluator(editor)), lambda: len(again.tried) < 6)
    assert [tried.setup.sadr["gamma"] for tried in again.tried] == [
        parameters["gamma"] for parameters in first
    ], "what was not yet tried comes next, and nothing twice"
    without = Space({}, keep=False, steps=4, fixed={}).first({})
    assert len(without) == 4
    assert all("keep" not in parameters for parameters in without)
    assert "keep" not in Space({}, False, 4, {}).setup(without[0]).sadr
    own = {"clamp_norm_factor": Dimension(0.1, 9), "layer": Dimension(choices=[1, 4, 5])}
    values = {"clamp_norm_factor": 4, "layer": 5}
    moved = [p for p in Space(own, False, 4, {}).first(values) if p["layer"] != 5]
    assert [(p["layer"], p["clamp_norm_factor"]) for p in moved] == [(4, pytest.approx(2.8))]


def test_trials_leave_the_model_as_it_was():
    editor = Tunable()
    before = {name: value.clone() for name, value in editor.model.state_dict().items()}
    evaluator = TrialEvaluator(editor)
    (record,) = records(1)
    for settings in ({}, {"harm": 0.3}):
        (found,) = evaluator.items(TrialTask("t", Setup(settings, {"gamma": 1.0}), record))
        assert found.arm == "t"
    (unedited,) = evaluator.items(TrialTask(UNEDITED, Setup(), record))
    assert unedited.scores["relation"][0][0] > unedited.scores["relation"][0][1]
    evaluator.finish()
    assert all(torch.equal(before[n], v) for n, v in editor.model.state_dict().items())


def test_a_setup_that_fails_is_a_bad_one_not_the_end(tmp_path):
    editor = Tunable(error=RuntimeError("no inverse"))
    search = run_search(tmp_path, editor, trials=2)
    assert search.tried
    assert search.front() == []
    assert search.ranked() == []


def test_a_continued_search_draws_other_parameters(tmp_path):
    few = run_search(tmp_path, Tunable(), trials=3)
    more = run_search(tmp_path, Tunable(), trials=3)
    assert len(more.tried) == len(few.tried) + 3
    drawn = [json.dumps(dict(tried.parameters)) for tried in more.tried]
    assert len(set(drawn)) == len(drawn)


def test_a_number_of_a_setup_has_the_digits_that_matter():
    parameters = {"size": 0.123456, "harm": 0.3, "gamma": 12.3456, "stop_at": 0.7654321}
    setup = Space(Tunable().search_space(), False, 4, {}).setup(parameters)
    assert setup.settings == {"size": 0.123, "harm": 0.3}
    assert setup.sadr == {"num_grad_steps": 4, "gamma": 12.3, "stop_at": 0.765}
    assert not math.isnan(setup.sadr["gamma"])


def make_evaluator():
    return TrialEvaluator(Tunable())


def test_trials_side_by_side_on_ray(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    search = searching(tmp_path, Tunable(), count=4)
    engine = RayEngine(make_evaluator, [], workers=2)
    under_way = []

    def told(_):
        under_way.append(len(search._running))

    search.run(engine, lambda: len(search.tried) < 4, parallel=2, on_result=told)
    assert len(search.tried) >= 4
    assert max(under_way) == 2
    for tried in search.finished:
        assert [result.record for result in tried.results] == ["0", "1", "2", "3"]


class WritesElsewhere(Tunable):
    """Writes, besides, to a weight that it does not name, in a way that leaves no mark."""

    def configured(self, settings):
        return self

    def edit(self, records, sadr):
        super().edit(records, sadr)
        self.model.model.layers[3].mlp.up_proj.weight.data.add_(1)


def test_what_was_measured_on_a_changed_model_is_put_aside(tmp_path):
    engine = LocalEngine(TrialEvaluator(WritesElsewhere()))
    with pytest.raises(ChangedModelError, match=r"What was measured is in .*untrusted-r\.jsonl"):
        Runs(engine, tmp_path / "r.jsonl").results({"a": Setup({"harm": 0.3})}, records(2))
    assert Runs(engine, tmp_path / "r.jsonl").missing({"a": Setup()}, records(1))
    with pytest.raises(ChangedModelError, match="untrusted-study"):
        run_search(tmp_path, WritesElsewhere(), trials=1)
    again = searching(tmp_path, Tunable())
    assert again.tried == []


def told_of_plain_edits(work):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        work()
    return [str(w.message) for w in warned if "SADR did not act on the edit" in str(w.message)]


def test_a_tuning_in_which_sadr_does_not_act_is_warned_of_once_in_each_part(tmp_path):
    runs = Runs(LocalEngine(TrialEvaluator(Tunable())), tmp_path / "r.jsonl")
    setups = {name: Setup(sadr={"gamma": 1.0}) for name in "ab"}
    (told,) = told_of_plain_edits(lambda: runs.results(setups, records(2)))
    assert "in the arm a, SADR did not act on the edit of record 0" in told
    assert told_of_plain_edits(lambda: runs.results(setups, records(3))) == []
    assert len(told_of_plain_edits(lambda: run_search(tmp_path, Tunable(), trials=3))) == 1
