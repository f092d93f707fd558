"""The evaluation's engine, with an editor small enough to see through."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sadr_plugin.errors import DataError, EvaluationError, PositionError
from sadr_plugin.evaluation import report
from sadr_plugin.evaluation.records import Question, Record
from sadr_plugin.evaluation.run import UNEDITED, Arm, Evaluation, read_results
from support import tiny_llama, word_tokenizer

ARMS = [Arm("plain", None), Arm("sadr", {"gamma": 1.0})]


def records(count=3):
    return [
        Record(
            key=str(number),
            subject="tower",
            template="the {} is in",
            target_new="rome",
            target_true="paris",
            neighbours=(Question("the louvre is in", "paris", "rome"),),
            relations=(Question("the tower is a", "city", "rome"),) if number % 2 else (),
            openings=("the tower", "a city"),
        )
        for number in range(count)
    ]


class SmallEditor:
    """Moves one weight, the more the further the record is down the file."""

    layer = 1
    layer_template = "model.layers.{}"

    def __init__(self, restores=True, error=None, pause=0.0):
        self.model = tiny_llama().requires_grad_(False)
        self.tokenizer = word_tokenizer()
        self.restores = restores
        self.error = error
        self.pause = pause
        self.edits = []

    @contextlib.contextmanager
    def edited(self, record, sadr):
        self.edits.append((record.key, None if sadr is None else sadr["gamma"]))
        time.sleep(self.pause)
        if self.error is not None and record.key == "1":
            raise self.error
        weight = self.model.model.layers[2].self_attn.k_proj.weight
        before = weight.clone()
        with torch.enable_grad():
            for _ in range(4):
                self.model(torch.tensor([[1, 2]]))
        weight += (2.0 if sadr is None else 1.0) * torch.randn(weight.shape)
        try:
            yield
        finally:
            if self.restores:
                weight.copy_(before)


def evaluate(tmp_path, editor=None, count=3, **options):
    evaluation = Evaluation(editor or SmallEditor(), ARMS, tmp_path / "results.jsonl", **options)
    return evaluation.run(records(count))


def without_times(results):
    return [{**vars(result), "seconds": None} for result in results]


def test_every_record_in_every_arm(tmp_path):
    seen = []
    editor = SmallEditor()
    evaluation = Evaluation(editor, ARMS, tmp_path / "results.jsonl")
    results = evaluation.run(records(), seen.append)
    assert seen == results
    assert [(r.record, r.arm) for r in results] == [
        (key, arm) for key in "012" for arm in (UNEDITED, "plain", "sadr")
    ]
    assert editor.edits == [(key, gamma) for key in "012" for gamma in (None, 1.0)]
    unedited, plain, sadr = results[3:6]
    assert unedited.scores["relation"] != plain.scores["relation"] != sadr.scores["relation"]
    assert (unedited.steps, plain.steps) == (0, 4)
    assert unedited.drift == 0
    assert max(result.drift for result in results) > 0
    assert unedited.fluency != plain.fluency
    assert results[0].scores["relation"] == []
    assert read_results(tmp_path / "results.jsonl") == results


def test_two_runs_with_one_seed_agree_and_another_does_not(tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        runs.append(without_times(evaluate(tmp_path / name, seed=seed)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_run_goes_on_where_it_stopped(tmp_path, cut):
    whole = without_times(evaluate(tmp_path))
    file = tmp_path / "results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    # Killed after five results, and in the middle of writing the fifth.
    kept = b"".join(lines[:5])
    file.write_bytes(kept[: len(kept) - cut])
    editor = SmallEditor()
    assert without_times(evaluate(tmp_path, editor)) == whole
    assert len(editor.edits) == 3 if cut == 0 else 4
    assert without_times(read_results(file)) == whole
    again = SmallEditor()
    evaluate(tmp_path, again)
    assert again.edits == []


KILLED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from test_evaluation import SmallEditor, evaluate
evaluate(Path({folder!r}), SmallEditor(pause=0.2), count=6)
"""


def test_killed_and_taken_up_again(tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    path = [str(Path(__file__).parent), *sys.path]
    script = KILLED.format(path=path, folder=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script])
    file = tmp_path / "killed" / "results.jsonl"
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= len(read_results(file)) < 18
    evaluate(tmp_path / "killed", count=6)
    evaluate(tmp_path / "whole", count=6)
    found, expected = (
        without_times(read_results(tmp_path / name / "results.jsonl"))
        for name in ("killed", "whole")
    )
    assert found == expected


def test_weights_that_are_not_put_back_end_the_run(tmp_path):
    with pytest.raises(EvaluationError, match="record 0, plain: the model's weights are not"):
        evaluate(tmp_path, SmallEditor(restores=False))
    assert [r.arm for r in read_results(tmp_path / "results.jsonl")] == [UNEDITED]


def test_a_record_that_cannot_be_edited_is_told_and_left_out(tmp_path):
    results = evaluate(tmp_path, SmallEditor(error=PositionError("no subject")), count=3)
    assert [r.error for r in results if r.record == "1"] == [None, "no subject", "no subject"]
    summaries = report.summarise(results)
    assert [(s.arm, s.records, s.failed) for s in summaries] == [
        (UNEDITED, 2, 0),
        ("plain", 2, 1),
        ("sadr", 2, 1),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the toolkit's own")])
def test_what_is_finished_is_kept(tmp_path, error):
    with pytest.raises(type(error)):
        evaluate(tmp_path, SmallEditor(error=error))
    assert len(read_results(tmp_path / "results.jsonl")) == 4


@pytest.mark.parametrize("line", ["{", "[]", '{"record": "0"}', "null"])
def test_a_line_that_is_no_result(tmp_path, line):
    file = tmp_path / "results.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError, match="line 1 is no result"):
        read_results(file)


def test_what_is_written(tmp_path):
    results = evaluate(tmp_path)
    summaries = report.write(tmp_path, results, {"seed": 0})
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["about"] == {"seed": 0}
    assert [arm["arm"] for arm in data["arms"]] == [UNEDITED, "plain", "sadr"]
    assert data["arms"][1]["accuracy"]["relation"]["questions"] == 1
    assert data["arms"][1]["versus"].keys() == {UNEDITED, "sadr"}
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1
    tex = (tmp_path / "summary.tex").read_text()
    assert tex.count(r"\\") == 4
    assert report.table(summaries, "title").row_count == 3
