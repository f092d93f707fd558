"""An edit with SADR says so, without any set-up."""

import logging

import pytest

import sadr_plugin
from smalledit.hparams import SmallHparams


def edit(small, model, tok, request, sadr, **options):
    return small.optimise(model, tok, request, SmallHparams(sadr=sadr), **options)


def test_one_line_at_the_start_and_one_at_the_end(
    small, tiny_llama, word_tokenizer, request_, caplog
):
    caplog.set_level(logging.INFO)
    edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0.25, "stop_at": 0.99999})
    first, last = (record for record in caplog.records if record.levelno == logging.INFO)
    assert {first.name, last.name} == {"sadr_plugin"}
    assert first.getMessage() == (
        "SADR: SMALL edits layer 1 with gamma = 0.25; attention is watched in 2 layers of 4 heads; "
        "it stops once the target's probability is 0.99999, by the editor's own rule, after 6 "
        "steps at the latest"
    )
    report = sadr_plugin.last_report()
    step = report.steps[-1]
    assert f"SMALL ended after {len(report.steps)} steps" in last.getMessage()
    assert f"{step.penalty:.4g} at last" in last.getMessage()
    assert f"probability of the target {step.target:.3f}" in last.getMessage()


def test_an_edit_without_sadr_says_nothing(small, tiny_llama, word_tokenizer, request_, caplog):
    caplog.set_level(logging.INFO)
    edit(small, tiny_llama, word_tokenizer, request_, False)
    assert caplog.records == []


def test_an_edit_that_is_broken_off_says_so(small, tiny_llama, word_tokenizer, request_, caplog):
    caplog.set_level(logging.INFO)
    before = sadr_plugin.last_report()

    def stop(step):
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        edit(small, tiny_llama, word_tokenizer, request_, True, on_step=stop)
    assert "SMALL was broken off (ValueError) after 1 steps" in caplog.records[-1].getMessage()
    assert sadr_plugin.last_report() is before


def test_the_last_report_and_all_reports(
    small, small_adapter, tiny_llama, word_tokenizer, request_
):
    with sadr_plugin.reports() as found:
        edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 1})
        edit(small, tiny_llama, word_tokenizer, request_, False)
        edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 2})
    edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 3})
    assert [report.gamma for report in found] == [1, 2]
    assert sadr_plugin.last_report().gamma == 3
    assert sadr_plugin.last_report() is small_adapter.reports[-1]
