"""Edits that add up, with the editor of `evaluation_support`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from evaluation_support import (
    ARMS,
    Acting,
    Elsewhere,
    Hidden,
    Idle,
    SmallEditor,
    plain_edits,
    records,
    without_times,
)
from sadr_plugin.errors import ConfigError, DataError, EvaluationError, PositionError
from sadr_plugin.evaluation import (
    UNEDITED,
    Checkpoint,
    LocalEngine,
    RayEngine,
    Result,
    SequenceEvaluator,
    SequenceRun,
    UneditedWeights,
    checkpoints,
    read_checkpoints,
    read_results,
    sequence_table,
    summarise_sequence,
    write_sequence,
)
from sadr_plugin.pages import save, sequence

COUNT, WHEN = 6, (1, 4, 6)
TEXT = "the tower is in paris the louvre is in rome a city"


def evaluator(editor=None, batch_size=1, without=(), **options):
    unrelated = [replace(record, key=f"u{record.key}") for record in records(2)]
    given = {"fluency": False, "text": TEXT, "unrelated": unrelated, **options}
    chosen = [record for record in records(COUNT) if record.key not in without]
    return SequenceEvaluator(editor or SmallEditor(), ARMS, chosen, batch_size, **given)


def run(folder, editor=None, when=WHEN, on_item=lambda item: None, **options):
    folder.mkdir(exist_ok=True)
    sequence = SequenceRun(LocalEngine(evaluator(editor, **options)), folder, when)
    sequence.run(on_item)
    return sequence


def numbers(sequence):
    """All that a run has come to, but for times, in an order of its own."""
    return (
        sorted(map(repr, without_times(sequence.results))),
        sorted(map(repr, sequence.checkpoints)),
    )


def test_nothing_is_taken_back_before_an_arms_end(tmp_path):
    editor = SmallEditor()
    unedited = UneditedWeights(editor.model, editor.weights)
    found = run(tmp_path, editor)
    unedited.check()
    assert editor.remembered == 0
    # An arm goes on from where it was, though the other's turn came in between.
    expected = [(arm, keys) for keys in ("0", "123", "45") for arm in (None, 1.0)]
    assert editor.edits == [(key, arm) for arm, keys in expected for key in keys]
    changes = {(c.arm, c.edits): c.changes[editor.weights[0]] for c in found.checkpoints}
    assert changes[UNEDITED, 0] == 0
    for arm in ("plain", "sadr"):
        assert 0 < changes[arm, 1] < changes[arm, 4] < changes[arm, 6]
    made = [r for r in found.results if r.when == "made" and r.arm == "plain"]
    assert [(r.record, r.edits, r.steps) for r in made] == [(str(i), i + 1, 4) for i in range(6)]
    seen = [r for r in found.results if r.when == "checkpoint" and r.arm == "plain"]
    assert [(r.record, r.edits) for r in seen] == [(str(i), n) for n in WHEN for i in range(n)]
    by_place = {(r.record, r.when, r.edits): r for r in found.results if r.arm == "plain"}
    first, later = by_place["0", "checkpoint", 1], by_place["0", "checkpoint", 6]
    assert first.scores == by_place["0", "made", 1].scores
    assert first.scores != later.scores, "the others have been edited since"
    assert later.drift > 0
    assert read_results(tmp_path / "results.jsonl") == found.results
    assert read_checkpoints(tmp_path / "checkpoints.jsonl") == found.checkpoints


@pytest.mark.parametrize(
    ("editor", "warned"), [(SmallEditor(), ["0"]), (Acting(plain="4"), ["4"]), (Acting(), [])]
)
def test_an_arm_on_which_sadr_does_not_act_is_warned_of_once(tmp_path, editor, warned):
    assert plain_edits(lambda: run(tmp_path, editor)) == warned


def test_an_editor_whose_edits_are_elsewhere_or_nowhere(tmp_path):
    with pytest.raises(EvaluationError, match=r"^Editor\.layer is 0, but"):
        run(tmp_path / "elsewhere", Elsewhere(), skip_bad=True)
    with pytest.warns(UserWarning, match="in the arm plain, the edit of record 0 changed none"):
        run(tmp_path / "nowhere", Idle())
    made = {r.changed for r in run(tmp_path / "sound").results if r.when == "made"}
    assert made == {True}


def test_in_batches(tmp_path):
    editor = SmallEditor()
    found = run(tmp_path, editor, when=(4, 6), batch_size=4)
    arms = [arm for _, arm in editor.edits]
    assert arms == [None] * 4 + [1.0] * 4 + [None] * 2 + [1.0] * 2
    made = [r for r in found.results if r.when == "made" and r.arm == "plain"]
    assert [(r.record, r.edits, r.steps) for r in made] == [
        (str(i), 4 if i < 4 else 6, 1 if i < 4 else 2) for i in range(6)
    ]


class Killed(SmallEditor):
    """Takes its process with it at its ``last`` call."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def edit(self, records, sadr):
        super().edit(records, sadr)
        self.last -= 1
        if self.last == 0:
            os.kill(os.getpid(), signal.SIGKILL)


KILLED = """
import sys
import time
import warnings
from collections import deque
sys.path[:0] = {path!r}
from pathlib import Path
from test_sequence import Killed, run
run(Path({folder!r}), Killed({last}))
"""


def test_killed_and_taken_up_again_to_the_same_numbers(tmp_path):
    undisturbed = numbers(run(tmp_path / "whole"))
    path = [str(Path(__file__).parent), *sys.path]
    last = random.Random(0).sample(range(2, 12), 3)
    for calls in last:
        folder = tmp_path / f"killed-{calls}"
        script = KILLED.format(path=path, folder=str(folder), last=calls)
        process = subprocess.run([sys.executable, "-c", script], check=False)
        assert process.returncode == -signal.SIGKILL
        reached = len(read_checkpoints(folder / "checkpoints.jsonl"))
        editor = SmallEditor()
        assert numbers(run(folder, editor)) == undisturbed
        assert reached == 1 or len(editor.edits) < 12, "what was finished was not done again"
        left = sorted(file.name for file in folder.glob("*.safetensors*"))
        assert left == ["plain-6.safetensors", "sadr-6.safetensors"], "the last ones alone"


def test_results_without_their_checkpoint_are_made_again(tmp_path):
    whole = numbers(run(tmp_path))
    file = tmp_path / "checkpoints.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    saved = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    undone = next(place for place, line in enumerate(lines) if b'"sadr", "edits": 1' in line)
    file.write_bytes(b"".join(line for line in lines[: undone + 1] if b'"sadr"' not in line))
    for path in saved:
        if path.name.startswith("sadr"):
            path.unlink()
    editor = SmallEditor()
    # Of plain only the first checkpoint stands there; what it saved is gone.
    with pytest.raises(DataError, match=r"plain-1\.safetensors: cannot be read.*after 1 edits"):
        run(tmp_path, editor)
    kept = [c for c in read_checkpoints(file) if c.arm == UNEDITED]
    file.write_bytes(lines[0])
    assert len(kept) == 1
    assert numbers(run(tmp_path, editor)) == whole


def test_what_fails_is_left_out_and_changes_nothing(tmp_path):
    error = PositionError("no subject")
    found = run(tmp_path, SmallEditor(error=error, bad="2"))
    errors = [(r.record, r.error) for r in found.results if r.error]
    assert errors == [("2", "no subject")] * 2
    assert {r.record for r in found.results if r.when == "checkpoint"} == set("01345")
    # As if the record had never been there: the editor is told the same of the others.
    weights = {(c.arm, c.edits): c.changes for c in found.checkpoints}
    assert weights["plain", 4] != weights["plain", 1]
    summary = summarise_sequence(found.results, found.checkpoints)
    assert [(arm.arm, arm.records, arm.failed) for arm in summary.points[-1].arms] == [
        (UNEDITED, 5, 0),
        ("plain", 5, 1),
        ("sadr", 5, 1),
    ]
    with pytest.raises(RuntimeError):
        run(tmp_path / "other", SmallEditor(error=RuntimeError("singular")))
    editor = SmallEditor(error=RuntimeError("singular"))
    assert run(tmp_path / "counted", editor, skip_bad=True).results


def test_a_failed_call_is_undone(tmp_path):
    """The weight and what the editor remembers are what they were before the call."""
    changes = {}
    for name, options in (("bad", {"error": PositionError("x"), "bad": "1"}), ("good", {})):
        found = run(tmp_path / name, SmallEditor(**options), when=(1, 2, 6))
        changes[name] = {c.edits: c.changes for c in found.checkpoints if c.arm == "plain"}
    assert changes["bad"][2] == changes["bad"][1] == changes["good"][1]
    assert changes["good"][2] != changes["good"][1]
    never = run(tmp_path / "never", when=(5,), without="1")
    (at_the_end,) = (c.changes for c in never.checkpoints if c.arm == "plain")
    assert changes["bad"][6] == at_the_end, "later edits are as if it had never been tried"


@pytest.mark.parametrize("change", [partial(SmallEditor, elsewhere=True), Hidden])
def test_no_leg_counts_that_changed_something_else(tmp_path, change):
    for _ in range(3):  # each time it is resumed
        with pytest.raises(EvaluationError, match=r"layers\.3\.mlp\.up_proj\.weight"):
            run(tmp_path, change())
        reached = read_checkpoints(tmp_path / "checkpoints.jsonl")
        assert [checkpoint.arm for checkpoint in reached] == [UNEDITED]
        assert {r.arm for r in read_results(tmp_path / "results.jsonl")} == {UNEDITED}


class Collapsing(SmallEditor):
    weights = ("model.layers.2.mlp.down_proj.weight",)

    def edit(self, records, sadr):
        super().edit(records, sadr)
        if records[0].key == "3":
            self.model.get_parameter(self.weights[0]).fill_(torch.nan)


def test_a_model_that_collapses_is_shown_as_it_is(tmp_path):
    found = run(tmp_path, Collapsing(), fluency=True)
    assert {(r.arm, r.edits) for r in found.results if r.fluency is None} == {
        (arm, edits) for arm in ("plain", "sadr") for edits in (4, 5, 6)
    }
    assert numbers(run(tmp_path, Collapsing(), fluency=True)) == numbers(found)
    summary = write_sequence(tmp_path, found.results, found.checkpoints, {})
    assert summary.points[-1].arms[1].accuracy["efficacy"].mean == 0
    drawn = sequence(summarise_sequence(found.results, found.checkpoints), "")
    save(drawn, tmp_path / "summary.svg")
    assert ">FL, bits</text>" in (tmp_path / "summary.svg").read_text()


def test_looking_at_a_model_changes_nothing(tmp_path):
    """An arm that is saved and goes on ends as one that goes straight through."""
    ends = []
    for name, when in (("often", WHEN), ("once", WHEN[-1:])):
        found = run(tmp_path / name, when=when)
        ends.append({c.arm: c.changes for c in found.checkpoints if c.edits == WHEN[-1]})
    assert ends[0] == ends[1]


def make(folder):
    return evaluator()


@pytest.mark.parametrize("threads", [None, 1])
def test_an_arm_is_a_workers(tmp_path, monkeypatch, threads):
    pytest.importorskip("ray", reason="the ray engine's own package is optional")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = run(tmp_path / "here")
    finally:
        torch.set_num_threads(before)
    engine = RayEngine(partial(make, None), [arm.name for arm in ARMS], 2, threads)
    (tmp_path / "there").mkdir()
    there = SequenceRun(engine, tmp_path / "there", WHEN)
    there.run()
    assert numbers(there) == numbers(here)


def test_workers_without_a_place_are_done_without(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the ray engine's own package is optional")
    from sadr_plugin.evaluation.engines import _ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(_ray, "PATIENCE", 5.0)
    # GPUs that are not there: Ray counts what it is told. Another job holds the first of them.
    ray.init(num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        holding = ray.remote(Holder).options(num_gpus=1).remote()
        ray.get(holding.ready.remote())
        engine = RayEngine(partial(make, None), [arm.name for arm in ARMS], 2)
        (tmp_path / "one").mkdir()
        with pytest.warns(UserWarning, match="no room for 1 of 2 workers .* with the other 1"):
            SequenceRun(engine, tmp_path / "one", (6,)).run()
        assert len(read_checkpoints(tmp_path / "one" / "checkpoints.jsonl")) == 3
        more = ray.remote(Holder).options(num_gpus=1).remote()
        ray.get(more.ready.remote())
        (tmp_path / "none").mkdir()
        with pytest.raises(EvaluationError, match=r"no room for .*free some GPUs"):
            SequenceRun(engine, tmp_path / "none", (6,)).run()
    finally:
        ray.shutdown()


class Holder:
    def ready(self):
        pass


class Together:
    """Ends a task only when four tasks are under way."""

    arms = ("plain",)

    def __init__(self, folder):
        self.folder = folder

    def items(self, task):
        (self.folder / f"under-way-{task}").touch()
        end = time.monotonic() + 150
        while len(list(self.folder.glob("under-way-*"))) < 4:
            assert time.monotonic() < end, "the four tasks do not run at once"
            time.sleep(0.05)
        yield task

    def finish(self):
        pass


@pytest.mark.parametrize("patience", [200.0, 0.2])
def test_more_workers_than_cpus(tmp_path, monkeypatch, patience):
    ray = pytest.importorskip("ray", reason="the ray engine's own package is optional")
    from sadr_plugin.evaluation.engines import _ray

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(_ray, "PATIENCE", patience)
    ray.init(num_cpus=1, num_gpus=0, include_dashboard=False, log_to_driver=False)
    engine = RayEngine(partial(Together, tmp_path), Together.arms, 4)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if patience > 1:  # a worker that never starts then ends the test
                warnings.filterwarnings("error", message="SADR")
            assert sorted(engine.items(deque(range(4)))) == [0, 1, 2, 3]
    finally:
        ray.shutdown()
    named = [str(w.message) for w in seen if "workers have not started" in str(w.message)]
    assert len(named) == (patience < 1), "slow starts are named once"


def test_what_is_written_and_shown(tmp_path):
    found = run(tmp_path)
    # The records have one prompt, and so one drift.
    results = [replace(r, drift=r.drift + int(r.record)) for r in found.results]
    summary = write_sequence(tmp_path, results, found.checkpoints, {"seed": 0})
    assert [point.edits for point in summary.points] == list(WHEN)
    assert [arm.arm for arm in summary.made] == [UNEDITED, "plain", "sadr"]
    assert summary.points[0].models["plain"].perplexity > 0
    assert summary.points[-1].arms[1].steps == 4
    data = json.loads((tmp_path / "summary.json").read_text())
    shares = data["points"][2]["models"]["sadr"]
    assert list(shares["changes"]) == list(SmallEditor.weights)
    assert shares["change"] == shares["changes"][SmallEditor.weights[0]] > 0
    assert data["points"][0]["arms"][1]["drift_interval"] is None, "one record"
    rows = (tmp_path / "summary.md").read_text().splitlines()
    assert len(rows) == 2 + 3 * 3 + 2
    assert len({row.count("|") for row in rows}) == 1
    assert "| DNS | DRS |" in rows[0]
    at_the_end = summary.points[-1].arms[1]
    low, high = at_the_end.drift_interval
    assert 0 <= low < at_the_end.drift < high
    assert f"| {at_the_end.drift:.2f} ({low:.2f}–{high:.2f}) |" in rows[-4]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(sequence_table(summary, "title"))
    assert "…" not in capture.get(), "nothing is cut off on a terminal of 80 columns"
    assert "DRS" not in capture.get(), "it has no room for it"
    save(sequence(summary, "Small editor"), tmp_path / "summary.svg")
    picture = (tmp_path / "summary.svg").read_text()
    curves = ("S, percent", "NS, percent", "DRS, percent", "UF, percent", "drift", "perplexity")
    for shown in (*curves, "plain", "sadr", "Small editor"):
        assert f">{shown}</text>" in picture
    assert "PS, percent" not in picture, "no record has a paraphrase"
    with pytest.raises(EvaluationError, match="no checkpoint"):
        sequence(summarise_sequence([], []), "")


def test_only_checkpoints_of_every_arm_are_summed_up(tmp_path):
    found = run(tmp_path)
    short = [c for c in found.checkpoints if (c.arm, c.edits) != ("sadr", 6)]
    assert [p.edits for p in summarise_sequence(found.results, short).points] == [1, 4]


def test_p_values_are_corrected_at_each_checkpoint_by_itself():
    """Holm's method counts the tests of one checkpoint: here there is one at each."""
    right, wrong, ends = [[-0.1, -5.0]], [[-5.0, -0.1]], (8, 12)
    results, reached = [], [Checkpoint(UNEDITED, 0, [], None, {})]
    for arm, answers in ((UNEDITED, right), ("plain", wrong), ("sadr", right)):
        asked = [(i, 0, "single") for i in range(12)]
        if arm != UNEDITED:
            asked = [(i, i + 1, "made") for i in range(12)]
            asked += [(i, end, "checkpoint") for end in ends for i in range(end)]
            reached += [Checkpoint(arm, end, [], None, {}) for end in ends]
        results += [
            Result(
                str(i), arm, {"neighbourhood": answers}, None, None, None, edits=edits, when=when
            )
            for i, edits, when in asked
        ]
    found = summarise_sequence(results, reached)
    for point in found.points:
        plain = point.arms[1]
        assert plain.versus["sadr"]["neighbourhood"] == 2 / 2**point.edits
        assert plain.corrected["sadr"]["neighbourhood"] == 2 / 2**point.edits
    assert [point.edits for point in found.points] == list(ends)


@pytest.mark.parametrize(
    ("wanted", "count", "size", "expected"),
    [
        (None, 60, 1, [1, 10, 25, 50, 60]),
        (None, 60, 10, [10, 50, 60]),
        (None, 5, 5, [5]),
        ([2, 4], 10, 2, [2, 4, 10]),
        ([10], 10, 4, [10]),
    ],
)
def test_checkpoints(wanted, count, size, expected):
    assert checkpoints(wanted, count, size) == expected


@pytest.mark.parametrize("wanted", [[3], [0], [12], [2, 5]])
def test_checkpoints_that_cannot_be(wanted):
    with pytest.raises(ConfigError, match=f"{wanted[-1]} is not possible .* in batches of 2"):
        checkpoints(wanted, 10, 2)


def test_times_are_taken_by_the_edit(tmp_path):
    found = run(tmp_path, SmallEditor(pause=0.05), when=(6,), batch_size=3)
    seconds = [r.seconds for r in found.results if r.when == "made"]
    assert min(seconds) > 0.05 / 3
    assert all(isinstance(c, Checkpoint) for c in found.checkpoints)


def test_arms_come_in_their_own_order(tmp_path):
    """Whichever reaches a checkpoint first, as on a cluster."""
    found = run(tmp_path, when=(6,))
    reversed_ = sorted(found.checkpoints, key=lambda c: c.arm, reverse=True)
    results = sorted(found.results, key=lambda r: r.arm, reverse=True)
    summary = summarise_sequence(results, reversed_, ["plain", "sadr"])
    for arms in (summary.points[0].arms, summary.made):
        assert [arm.arm for arm in arms] == [UNEDITED, "plain", "sadr"]
    assert list(summary.points[0].models) == [UNEDITED, "plain", "sadr"]
