"""What a check-up of an editor names, and what a verdict on unseen records says."""

import json
from dataclasses import replace

import pytest

from sadr_plugin.errors import DataError
from sadr_plugin.evaluation import (
    UNEDITED,
    Dimension,
    Result,
)
from sadr_plugin.tuning import (
    CONTROL,
    PLAIN,
    TUNED,
    Baselines,
    check_up,
    judge,
    margin,
)
from tuning_support import RIGHT, WRONG, Tunable, outcome

pytest.importorskip("optuna")


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
    one = [broken[-1] if r.arm == TUNED and r.record == "11" else r for r in judged(12)]
    assert judge(one).shortcomings == ["1 of the edits fails"]
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


@pytest.mark.parametrize(
    ("unedited", "plain", "tuned", "missed"),
    [
        (50, 50, 46, []),
        (50, 50, 44, ["RS falls from 50.0 to 44.0"]),
        (50, 60, 56, []),
        (50, 40, 45, []),
        (50, 40, 44, ["40% of the lost RS is regained, not half"]),
        (50, 40, 39, ["RS falls from 40.0 to 39.0"]),
    ],
)
def test_the_verdict_has_the_targets_of_the_search(unedited, plain, tuned, missed):
    def of(arm, right):
        answers = [RIGHT] * right + [WRONG] * (100 - right)
        return Result("0", arm, {"efficacy": [RIGHT], "relation": answers}, None, None, None)

    arms = {UNEDITED: unedited, PLAIN: plain, CONTROL: plain, TUNED: tuned}
    results = {arm: of(arm, right) for arm, right in arms.items()}
    assert judge(list(results.values())).shortcomings == missed
    far = margin([results[TUNED]], Baselines([results[UNEDITED]], [results[PLAIN]]))
    assert (far < 0) is bool(missed)


def test_a_verdict_compares_with_plain_and_with_the_stop_alone():
    found = judge(judged(9, plain_right=3))
    change = found.changes[PLAIN]["relation"]
    assert change.mean == pytest.approx(50)
    assert change.low < 50 < change.high
    assert found.changes[CONTROL]["relation"] == change
    assert found.p_values(CONTROL)["relation"] == found.p_values(PLAIN)["relation"] < 1
    assert found.changes[PLAIN]["paraphrase"].mean == 0


@pytest.mark.parametrize("against", [True, False])
def test_a_gain_in_few_records_is_no_help_where_more_get_worse_nor_the_reverse(against):
    """36 records change by one answer, and 4 by ten the other way: mean and test disagree."""
    found = []
    for number in range(40):
        few = number >= 36
        change = (10 if few else -1) * (1 if against else -1)
        right = {UNEDITED: 20, PLAIN: 10, CONTROL: 10, TUNED: 10 + change}
        for arm, count in right.items():
            answers = [RIGHT] * count + [WRONG] * (20 - count)
            scores = {"efficacy": [RIGHT], "relation": answers}
            found.append(Result(str(number), arm, scores, None, None, None))
    verdict = judge(found)
    assert verdict.p_values(PLAIN)["relation"] < 0.001
    assert (verdict.regained["relation"] > 0) is against
    assert verdict.better["relation"] == (-32 if against else 32)
    assert not verdict.helps
