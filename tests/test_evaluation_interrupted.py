"""Evaluations that end early, fail or go on: what is kept, put aside and tried again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation_support import (
    ARMS,
    Hidden,
    SmallEditor,
    evaluate,
    records,
    stopped_by,
    without_times,
)
from sadr_plugin.errors import (
    ChangedModelError,
    ConfigError,
    DataError,
    EvaluationError,
    PositionError,
)
from sadr_plugin.evaluation import (
    UNEDITED,
    EvaluationRun,
    LocalEngine,
    SingleEvaluator,
    read_results,
    summarise,
)


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
    assert len(editor.edits) == (3 if cut == 0 else 4)
    assert without_times(read_results(file)) == whole
    again = SmallEditor()
    evaluate(tmp_path, again)
    assert again.edits == []


KILLED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from evaluation_support import SmallEditor, evaluate
evaluate(Path({folder!r}), SmallEditor(pause=0.2), count=6)
"""


def test_an_error_of_the_settings_ends_the_run(tmp_path):
    with pytest.raises(ConfigError):
        evaluate(tmp_path, SmallEditor(error=ConfigError("no such setting")))
    assert len(read_results(tmp_path / "results.jsonl")) == 4


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


def test_a_change_that_the_editor_does_not_name_ends_the_run(tmp_path):
    message = r"record 0, sadr: .*layers\.3\.mlp\.up_proj\.weight.*untrusted-results\.jsonl"
    with pytest.raises(ChangedModelError, match=message):
        evaluate(tmp_path, SmallEditor(elsewhere=True))
    assert not (tmp_path / "results.jsonl").exists()
    assert [r.arm for r in read_results(tmp_path / "untrusted-results.jsonl")] == [UNEDITED]


def test_results_of_a_changed_model_are_put_aside(tmp_path):
    """No later run takes them for its own, and all is found again."""
    file, aside = tmp_path / "results.jsonl", tmp_path / "untrusted-results.jsonl"
    for _ in range(2):
        editor = Hidden()
        with pytest.raises(ChangedModelError, match=r"up_proj\.weight.*untrusted-results\.jsonl"):
            evaluate(tmp_path, editor)
        assert len(editor.edits) == 6
        assert not file.exists()
        assert len(read_results(aside)) == 9


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (RuntimeError("the toolkit's own"), None),
        (KeyboardInterrupt(), None),
        (None, KeyboardInterrupt()),
        (None, OSError("disk full")),
    ],
)
def test_results_of_a_changed_model_are_put_aside_however_the_run_ends(tmp_path, inside, outside):
    def run(editor, on_item):
        engine = LocalEngine(SingleEvaluator(editor, ARMS))
        return EvaluationRun(engine, tmp_path / "results.jsonl").run(records(), on_item)

    with pytest.raises(ChangedModelError, match=r"up_proj\.weight.*untrusted-results\.jsonl"):
        run(Hidden(error=inside), stopped_by(outside))
    assert not (tmp_path / "results.jsonl").exists()
    assert len(read_results(tmp_path / "untrusted-results.jsonl")) == 4
    resumed = run(SmallEditor(), lambda item: None)
    (tmp_path / "sound").mkdir()
    assert without_times(resumed) == without_times(evaluate(tmp_path / "sound"))


def test_a_sound_model_keeps_its_results_and_the_error_where_nothing_can_be_checked(
    tmp_path, monkeypatch
):
    with pytest.raises(RuntimeError, match="singular"):
        evaluate(tmp_path, SmallEditor(error=RuntimeError("singular")))

    def broken(self):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(SingleEvaluator, "finish", broken)
    with pytest.raises(RuntimeError, match="singular"):
        evaluate(tmp_path, SmallEditor(error=RuntimeError("singular")))
    assert len(read_results(tmp_path / "results.jsonl")) == 4


class Stuck(SmallEditor):
    def reset(self):
        raise RuntimeError("device-side assert")


def test_an_edit_that_cannot_be_taken_back_ends_the_run(tmp_path):
    for error in (None, RuntimeError("singular")):
        with pytest.raises(EvaluationError, match="could not be undone: RuntimeError: device"):
            evaluate(tmp_path, Stuck(error=error), skip_bad=True)
    assert [r.arm for r in read_results(tmp_path / "results.jsonl")] == [UNEDITED]


def test_a_file_that_is_read_is_left_as_it_is(tmp_path):
    """Another process may be writing it."""
    results = evaluate(tmp_path)
    file = tmp_path / "results.jsonl"
    half = file.read_bytes()[:-20]
    file.write_bytes(half)
    assert read_results(file) == results[:-1]
    assert file.read_bytes() == half


def test_what_failed_is_tried_once_more(tmp_path):
    evaluate(tmp_path, SmallEditor(error=PositionError("no subject")))
    editor = SmallEditor()
    results = evaluate(tmp_path, editor, retry_failed=True)
    assert editor.edits == [("1", 1.0), ("1", None)]
    assert all(result.error is None for result in results)
    assert len(results) == len(read_results(tmp_path / "results.jsonl")) == 9


def test_a_record_that_cannot_be_edited_is_told_and_left_out(tmp_path):
    results = evaluate(tmp_path, SmallEditor(error=PositionError("no subject")), count=3)
    assert [r.error for r in results if r.record == "1"] == [None, "no subject", "no subject"]
    summaries = summarise(results, ["plain", "sadr"])
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


def test_an_error_of_the_editor_is_counted_where_it_is_asked_for(tmp_path):
    with pytest.raises(RuntimeError):
        evaluate(tmp_path, SmallEditor(error=RuntimeError("singular")))
    results = evaluate(tmp_path, SmallEditor(error=RuntimeError("singular")), skip_bad=True)
    assert [r.error for r in results if r.record == "1"] == [None, *["RuntimeError: singular"] * 2]
    assert [r.error for r in results if r.record != "1"] == [None] * 6
    for error in (ConfigError("no such setting"), KeyboardInterrupt()):
        (tmp_path / type(error).__name__).mkdir()
        with pytest.raises(type(error)):
            evaluate(tmp_path / type(error).__name__, SmallEditor(error=error), skip_bad=True)


@pytest.mark.parametrize("line", ["{", "[]", '{"record": "0"}', "null"])
def test_a_line_that_is_no_result(tmp_path, line):
    file = tmp_path / "results.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError, match="line 1 is no result"):
        read_results(file)


def test_results_that_cannot_be_read(tmp_path):
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(DataError, match=r"results\.jsonl: cannot be read: "):
        evaluate(tmp_path)
