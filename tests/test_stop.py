"""An edit says whether its target became as likely as it should: in its report, and in the log."""

import logging

import pytest

import sadr_plugin
from evaluation_support import Acting, arm, evaluate
from sadr_plugin import Report, Step
from sadr_plugin.evaluation import summarise
from sadr_plugin.evaluation._tables import summary_rows
from sadr_plugin.plugins import plugin_manager
from smalledit.hparams import SmallHparams
from support import tiny_llama


@pytest.fixture
def edit(small, word_tokenizer, request_, caplog):
    """Edit with these settings. Return the report and the warnings in the log."""

    def run(steps=6, lr=0.3, model=None, **sadr):
        caplog.clear()
        hparams = SmallHparams(sadr=sadr, v_num_grad_steps=steps, lr=lr)
        small.optimise(model or tiny_llama(), word_tokenizer, request_, hparams)
        warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        return sadr_plugin.last_report(), warned

    return run


@pytest.fixture
def undecided():
    """A model to which every token is equally likely, so that every one is the likeliest."""
    model = tiny_llama()
    model.lm_head.weight.data.zero_()
    return model


def test_a_stop_that_is_reached_is_not_spoken_of(edit, undecided):
    report, warned = edit(model=undecided, gamma=0, stop_at=0.05)
    assert report.stopped is True
    assert report.reached == report.steps[-1].target >= 0.05
    assert len(report.steps) == 1
    assert warned == []


def test_a_stop_that_is_not_reached(edit):
    report, (warned,) = edit(steps=3, lr=0.01, gamma=1.0, stop_at=0.9)
    assert report.stopped is False
    assert report.reached < 0.9
    assert f"ended after 3 steps with the target at probability {report.reached:.3f}" in warned
    assert "below stop_at 0.9" in warned
    assert "num_grad_steps" in warned
    assert "a smaller weight of drift" in warned


def test_the_advice_fits_the_edit(edit):
    """No weight can be smaller than 0."""
    _, (warned,) = edit(steps=3, lr=0.01, gamma=0, stop_at=0.9)
    assert "smaller weight" not in warned


def test_a_target_that_never_became_the_likeliest(edit, undecided):
    report, (warned,) = edit(steps=2, lr=0.01, gamma=1.0)
    assert report.stopped is None
    assert report.steps[-1].likeliest == 0
    assert "the likeliest answer after 0% of the rewriting prompts" in warned
    assert "stop_at" not in warned
    report, warned = edit(model=undecided, gamma=0)
    assert report.steps[-1].likeliest == 1
    assert warned == []


def test_a_report_without_steps_or_target_knows_nothing():
    assert Report("E", 1, {}, (), 0.0, stop_at=0.5).stopped is None
    unknown = Step(0, 1.0, {"drift": 0.0}, 0.0)
    assert Report("E", 1, {}, (unknown,), 0.0, stop_at=0.5).stopped is None


class Stopping(Acting):
    """Reports that the target reached 0.8 after one edit, and 0.4 after the others."""

    def edit(self, records, sadr):
        with sadr_plugin.reports() as made:
            super().edit(records, sadr)
        del made
        if sadr is not None:
            reached = 0.8 if records[0].key == "1" else 0.4
            step = Step(0, 1.0, {"drift": 0.0}, 0.0, reached)
            report = Report("Small", 1, {"drift": 1.0}, (step,), 0.0, stop_at=0.7)
            plugin_manager().hook.sadr_edit_finished(report=report)


def test_results_and_tables_say_how_many_edits_reached_their_stop(tmp_path):
    results = evaluate(tmp_path, Stopping(), count=4)
    assert [arm(results, "sadr", key).reached for key in "0123"] == [0.4, 0.8, 0.4, 0.4]
    assert [arm(results, "sadr", key).stopped for key in "0123"] == [False, True, False, False]
    assert arm(results, "plain", "0").stopped is None
    summaries = {summary.arm: summary for summary in summarise(results)}
    assert (summaries["sadr"].stopped, summaries["plain"].stopped) == (25, None)
    header, *rows = summary_rows(list(summaries.values()))
    assert header[-1] == "stop"
    assert {row[0]: row[-1] for row in rows}["sadr"] == "25"
