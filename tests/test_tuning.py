"""Tuning: what a model knows, what is searched and given up, and what a verdict says."""

import io
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

import sadr_plugin
from sadr_plugin import HparamsSummary, hookimpl
from sadr_plugin.commands._tune import _seconds
from sadr_plugin.commands._tune_findings import TuningFindings
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ChangedModelError, ConfigError, DataError, EvaluationError
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
from sadr_plugin.evaluation._metrics import DISTRACTED, TASKS
from sadr_plugin.tuning import (
    CONTROL,
    PLAIN,
    TUNED,
    Baselines,
    Finding,
    Objectives,
    Options,
    Runs,
    Search,
    Setup,
    Space,
    TrialEvaluator,
    TrialTask,
    Tried,
    Tuner,
    check_up,
    judge,
    known,
    margin,
    objectives,
    questions,
    split,
)
from support import tiny_llama, word_tokenizer
from test_evaluation import SmallEditor

pytest.importorskip("optuna")

FACTS = ("city", "rome", "paris", "batch", "of", "now", "eiffel", "so", "then", "louvre")


def records(count=10):
    """One of a subject each; the model is made to know what is asked of it."""
    model, tokenizer = tiny_llama().requires_grad_(False), word_tokenizer()
    found = []
    for number in range(count):
        subject = FACTS[number % len(FACTS)]
        prompt = f"the {subject} is in"
        ids = tokenizer([prompt, f"a {subject} is"], return_tensors="pt", padding=True)
        logits = model(**ids).logits
        last = ids["attention_mask"].sum(1) - 1
        best = [logits[row, last[row]].argmax().item() for row in (0, 1)]
        worst = [logits[row, last[row]].argmin().item() for row in (0, 1)]
        true, new = (tokenizer.decode([ids[0]]) for ids in (best, worst))
        relation = Question(f"a {subject} is", tokenizer.decode([best[1]]), new)
        found.append(
            Record(
                str(number),
                subject,
                "the {} is in",
                new,
                true,
                paraphrases=(Question(f"now {prompt}", new, true),),
                relations=(relation,) if relation.right != new else (),
            )
        )
    return found


class Tunable(SmallEditor):
    """Makes the new object likelier as far as ``size`` says, and after the relation's prompt as
    far as that is like the edit's and as ``harm`` says."""

    weights = ("lm_head.weight",)

    def __init__(self, size=1.0, harm=1.0, error=None):
        super().__init__()
        self.values = {"size": size, "harm": harm}
        self.fails = error
        self.made = []

    def search_space(self):
        return {"size": Dimension(0.1, 10, log=True), "harm": Dimension(choices=[0.0, 0.3, 1.0])}

    def settings(self):
        return dict(self.values)

    def configured(self, settings):
        unknown = set(settings) - set(self.values)
        if unknown:
            raise ConfigError(f"no settings {unknown}")
        other = Tunable(error=self.fails)
        other.model, other.tokenizer, other.made = self.model, self.tokenizer, self.made
        other.values = {**self.values, **settings}
        return other

    def edit(self, records, sadr):
        (record,) = records
        self.made.append((record.key, dict(self.values), sadr))
        if self.fails is not None:
            raise self.fails
        with torch.enable_grad():
            for _ in range((sadr or {}).get("num_grad_steps", 5)):
                self.model(torch.tensor([[1, 2]]))
        edited, other = (
            self.model.model(**self.tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
            for text in (record.prompt, f"a {record.subject} is")
        )
        shared = (edited @ other) / (other @ other) * other
        weight = self.model.get_parameter(self.weights[0])
        new = self.tokenizer.vocab[record.target_new.strip()]
        weight[new] += self.values["size"] * (edited - (1 - self.values["harm"]) * shared)


def result(record, arm, **scores):
    kinds = {name.replace("_", " "): pairs for name, pairs in scores.items()}
    return Result(record, arm, kinds, None, None, None, steps=7)


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


def space(editor):
    return Space(editor.search_space(), keep=True, steps=4, fixed={"layers": [3]})


def searching(tmp_path, editor, first=(), count=5):
    """A search over records, with the unedited model in place of the plain edit."""
    evaluator, asked = TrialEvaluator(Tunable()), records(count)
    tasks = [TrialTask(UNEDITED, Setup(), record) for record in asked]
    unedited = [found for task in tasks for found in evaluator.items(task)]
    return Search(space(editor), asked, Baselines(unedited, unedited), tmp_path / "study", first)


def run_search(tmp_path, editor, trials):
    search = searching(tmp_path, editor)
    more = len(search.tried) + trials
    search.run(LocalEngine(TrialEvaluator(editor)), lambda: len(search.tried) < more)
    return search


def test_a_search_finds_what_is_better_and_goes_on(tmp_path):
    editor = Tunable()
    search = run_search(tmp_path, editor, trials=20)
    assert len(search.tried) == 20
    assert any(tried.given_up for tried in search.tried), "what cannot win is left"
    for tried in search.tried:
        assert tried.given_up == (len(tried.results) < 5)
        sadr = tried.setup.sadr
        assert (sadr["layers"], sadr["num_grad_steps"]) == ([3], 4)
        assert 0.03 <= sadr["gamma"] <= 30
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
    failing = replace(better[0], scores={**kinds, "efficacy": [(-1.0, 0.0)]})
    search.tried[0].results[3:] = [failing, failing]
    worse.results[3] = replace(worse.results[3], scores={**half, "efficacy": [(-1.0, 0.0)]})
    assert worse.objectives().efficacy == search.tried[0].objectives(4).efficacy
    assert not search._is_hopeless(worse), "what fails too often is no measure"


RIGHT, WRONG = (0.0, -1.0), (-1.0, 0.0)


def answers(made=4, kept=4, distracted=4, reworded=4, near=4):
    """Results of one record, by how many of four answers of each kind are right."""

    def pairs(right):
        return [RIGHT] * right + [WRONG] * (4 - right)

    kinds = {"efficacy": pairs(made), "relation": pairs(kept), "paraphrase": pairs(reworded)}
    kinds |= {"neighbourhood": pairs(near), DISTRACTED + "neighbourhood": pairs(distracted)}
    return [Result("0", "x", kinds, 0, 0, 0)]


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


def runner(**arms):
    """What a check-up runs: results by the settings."""
    asked = []

    def run(name, setup):
        asked.append(setup)
        for key, results in arms.items():
            if key in json.dumps([dict(setup.settings), dict(setup.sadr)]):
                return results
        return arms["otherwise"]

    run.asked = asked
    return run


def outcome(reached=0.95, made=True, spared=True):
    pairs = {True: (0.0, -9.0), False: (-9.0, 0.0)}
    return [
        Result(
            "0",
            "x",
            {"efficacy": [pairs[made]], "neighbourhood": [pairs[spared]]},
            None,
            None,
            None,
            steps=6,
            reached=reached,
        )
    ]


class Described(Tunable):
    def search_space(self):
        return {
            "v_lr": Dimension(0.1, 2),
            "clamp_norm_factor": Dimension(0.1, 2),
            "mom2_update_weight": Dimension(1, 2),
            "layer": Dimension(choices=[3, 4, 5, 9]),
        }

    def settings(self):
        return {"v_lr": 0.5, "clamp_norm_factor": 4, "mom2_update_weight": 1000, "layer": 5}

    def remarks(self):
        return ["too little text"]


def test_a_check_up_of_a_sound_editor():
    found = check_up(Tunable(), runner(otherwise=outcome()))
    assert [finding.good for finding in found] == [True] * 3


def test_a_check_up_names_what_helps():
    run = runner(
        **{'"clamp_norm_factor": 8': outcome(), "otherwise": outcome(reached=0.1, made=False)}
    )
    found = check_up(Described(), run)
    assert found[0].text == "too little text"
    assert not found[1].good
    assert "the target has a probability of 0.10" in found[1].text
    assert found[1].text.endswith("These changes help: clamp_norm_factor 8 instead of 4 (0.95)")
    assert found[1].change == {"clamp_norm_factor": 8}
    assert found[1].change == {"clamp_norm_factor": 8}
    steps = [setup.sadr["num_grad_steps"] for setup in run.asked if "num_grad_steps" in setup.sadr]
    assert set(steps) == {12}

    run = runner(**{'"mom2_update_weight": 200': outcome(), "otherwise": outcome(made=False)})
    texts = [finding.text for finding in check_up(Described(), run)]
    assert any("only 0% of the edits succeed after it is written" in text for text in texts)
    assert any("mom2_update_weight 200 instead of 1000 (100%)" in text for text in texts)

    run = runner(**{'"layer": 3': outcome(), "otherwise": outcome(spared=False)})
    last = check_up(Described(), run)[-1]
    assert "layer 3 instead of 5 (100%)" in last.text
    assert "Attention drift is not the cause, and SADR cannot repair them" in last.text
    assert last.change == {"layer": 3}

    run = runner(**{"stop_at": outcome(made=False), "otherwise": outcome()})
    texts = [finding.text for finding in check_up(Tunable(), run)]
    assert "with stop_at 0.75, only 0% of the edits succeed; try a higher stop_at" in texts

    failed = [Result("0", "x", {}, None, None, None, error="CUDA out of memory")]
    run = runner(**{'"clamp_norm_factor": 1.6': failed, "otherwise": outcome(spared=False)})
    assert "No change of a setting helps" in check_up(Described(), run)[-1].text
    run = runner(**{"stop_at": failed, "otherwise": outcome()})
    assert "0% of the edits succeed; try a higher stop_at" in check_up(Tunable(), run)[-2].text
    (finding,) = check_up(Tunable(), runner(otherwise=failed))
    assert finding.text == "the editor fails: CUDA out of memory"


def judged(tuned_right, plain_right=0, paraphrase=True, count=12):
    yes, no = (0.0, -9.0), (-9.0, 0.0)
    found = []
    for number in range(count):
        for arm, right in (
            (UNEDITED, True),
            (PLAIN, number < plain_right),
            (CONTROL, number < plain_right),
            (TUNED, number < tuned_right),
        ):
            edited = arm != UNEDITED
            scores = {
                "efficacy": [yes if edited else no],
                "paraphrase": [yes if edited and (arm != TUNED or paraphrase) else no],
                "relation": [yes if right else no],
                "distracting neighbourhood": [yes if right else no],
            }
            found.append(Result(str(number), arm, scores, None, None, None))
    return found


def test_a_verdict():
    good = judge(judged(12))
    assert good.shortcomings == []
    assert good.regained["relation"] == 1
    assert good.lost == 0
    assert good.helps
    assert good.sentence() == "These settings help, and they reach all targets."
    some = judge(judged(8, paraphrase=False))
    assert some.helps
    assert some.regained["relation"] == pytest.approx(8 / 12)
    assert some.shortcomings == ["PS falls from 100.0 to 0.0"]
    few = judge(judged(6))
    assert (
        few.summaries[3].versus[PLAIN]["relation"]
        < 0.05
        < few.summaries[3].corrected[PLAIN]["relation"]
    )
    assert not few.helps, "what may be chance among so many tests is no help"
    little = judge(judged(3, plain_right=2))
    assert not little.helps
    assert "10% of the lost RS is regained, not half" in little.shortcomings
    assert little.sentence().startswith("No settings were found that help")
    nothing_lost = judge(judged(12, plain_right=12))
    assert nothing_lost.regained["relation"] is None
    assert not nothing_lost.helps
    assert "may be chance" in nothing_lost.sentence()
    worse = judge(judged(6, plain_right=12))
    assert "RS falls from 100.0 to 50.0" in worse.shortcomings
    broken = judged(12)
    for place, found in enumerate(broken):
        if found.arm == TUNED and int(found.record) > 2:
            broken[place] = Result(found.record, TUNED, {}, None, None, None, error="no inverse")
    assert judge(broken).shortcomings == ["9 of the edits fail"]
    with pytest.raises(DataError, match="could be edited in every arm: no inverse"):
        judge([r if r.arm != TUNED else broken[-1] for r in judged(12)])


def test_a_verdict_says_what_was_not_asked_and_what_falls():
    without = [
        replace(found, scores={**found.scores, "relation": [], "paraphrase": []})
        for found in judged(12)
    ]
    found = judge(without)
    assert found.untested == ["relation", "paraphrase"]
    assert found.lost is None
    assert found.sentence() == (
        "These settings help, and they reach all targets but RS, PS, about which nothing was asked."
    )
    nearby = {UNEDITED: True, PLAIN: True, CONTROL: True, TUNED: False}
    worse = [
        replace(found, scores={**found.scores, "neighbourhood": [RIGHT if right else WRONG]})
        for found in judged(12)
        for right in (nearby[found.arm],)
    ]
    assert judge(worse).shortcomings == ["NS falls from 100.0 to 0.0"]


def test_a_verdict_compares_with_plain_and_with_the_stop_alone():
    found = judge(judged(9, plain_right=3))
    change = found.changes[PLAIN]["relation"]
    assert change.mean == pytest.approx(50)
    assert change.low < 50 < change.high
    assert found.changes[CONTROL]["relation"] == change
    assert found.p_values(CONTROL)["relation"] == found.p_values(PLAIN)["relation"] < 1
    assert found.changes[PLAIN]["paraphrase"].mean == 0


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


def test_a_continued_search_draws_other_parameters(tmp_path):
    few = run_search(tmp_path, Tunable(), trials=3)
    more = run_search(tmp_path, Tunable(), trials=3)
    assert len(more.tried) == len(few.tried) + 3
    drawn = [json.dumps(dict(tried.parameters)) for tried in more.tried]
    assert len(set(drawn)) == len(drawn)


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


def test_a_number_of_a_setup_has_the_digits_that_matter():
    parameters = {"size": 0.123456, "harm": 0.3, "gamma": 12.3456, "stop_at": 0.7654321}
    setup = Space(Tunable().search_space(), False, 4, {}).setup(parameters)
    assert setup.settings == {"size": 0.123, "harm": 0.3}
    assert setup.sadr == {"num_grad_steps": 4, "gamma": 12.3, "stop_at": 0.765}
    assert not math.isnan(setup.sadr["gamma"])


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


def test_options_of_tune_that_would_do_nothing(tmp_path):
    with pytest.raises(ConfigError, match="--corpus: for the statistics of --layers"):
        sadr_tune(tmp_path, "--corpus", "python")
    with pytest.raises(ConfigError, match="--layers: none of 3-5 can be tried with this editor"):
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


def test_without_optuna_the_command_ends_before_it_loads_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    arguments = ["tune", str(tmp_path / "none.yaml"), "--data", "builtin"]
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[tune\]'"):
        CliRunner().invoke(build(), arguments, catch_exceptions=False)
