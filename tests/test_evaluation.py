"""The evaluation's engine, with an editor small enough to see through."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from sadr_plugin import HparamsSummary, Report, hookimpl, plugin_manager
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import (
    ChangedModelError,
    ConfigError,
    DataError,
    EvaluationError,
    PositionError,
)
from sadr_plugin.evaluation import (
    UNEDITED,
    Arm,
    Editor,
    EvaluationRun,
    LocalEngine,
    Question,
    RayEngine,
    Record,
    SingleEvaluator,
    read_results,
    summarise,
    table,
    write,
)
from sadr_plugin.pages import metrics, save
from sadr_plugin.testing import registered
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


class SmallEditor(Editor):
    """Moves one weight, the further the more often it has done so since it was reset."""

    layer = 1
    layer_template = "model.layers.{}"
    weights = ("model.layers.2.self_attn.k_proj.weight",)

    def __init__(self, elsewhere=False, error=None, pause=0.0, bad="1"):
        self.model = tiny_llama().requires_grad_(False)
        self.tokenizer = word_tokenizer()
        self.elsewhere = elsewhere
        self.error = error
        self.pause = pause
        self.bad = bad
        self.edits = []
        self.remembered = torch.zeros(1)

    def edit(self, records, sadr):
        for record in records:
            self.edits.append((record.key, None if sadr is None else sadr.get("gamma")))
        time.sleep(self.pause)
        weight = self.model.get_parameter(self.weights[0])
        self.remembered += len(records)
        with torch.enable_grad():
            for _ in range(4):
                self.model(torch.tensor([[1, 2]]))
        size = (2.0 if sadr is None else 1.0) * self.remembered.sqrt()
        weight += size * torch.randn(weight.shape)
        if self.error is not None and self.bad in [record.key for record in records]:
            raise self.error
        if self.elsewhere:
            # Reversed rows: no sum shows it.
            other = self.model.model.layers[3].mlp.up_proj.weight
            other.copy_(other.flip(0))

    def reset(self):
        self.remembered.zero_()

    def state(self):
        return {"remembered": self.remembered.clone()}

    def load_state(self, state):
        self.remembered = state["remembered"].clone()


class Hidden(SmallEditor):
    """Writes, besides, to a weight that it does not name, in a way that leaves no mark."""

    def edit(self, records, sadr):
        super().edit(records, sadr)
        self.model.model.layers[3].mlp.up_proj.weight.data.add_(1)


def evaluate(tmp_path, editor=None, count=3, retry_failed=False, **options):
    evaluator = SingleEvaluator(editor or SmallEditor(), ARMS, **options)
    evaluation = EvaluationRun(LocalEngine(evaluator), tmp_path / "results.jsonl", retry_failed)
    return evaluation.run(records(count))


def arm(results, name, record):
    """The one result of a record in an arm."""
    (found,) = (r for r in results if (r.arm, r.record) == (name, record))
    return found


def without_times(results):
    return [{**vars(result), "seconds": None} for result in results]


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


class Acting(SmallEditor):
    """Reports its edits with SADR as the plugin does, apart from one record."""

    def __init__(self, plain=None):
        super().__init__()
        self.plain = plain

    def edit(self, records, sadr):
        super().edit(records, sadr)
        if sadr is not None and self.plain not in [record.key for record in records]:
            report = Report("Small", 1, {"drift": 1.0}, (), 0.0)
            plugin_manager().hook.sadr_edit_finished(report=report)


NO_ACTION = "SADR: in the arm sadr, SADR did not act on the edit of record"


def plain_edits(evaluate):
    """The records of which an evaluation warns."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        evaluate()
    told = [str(warning.message) for warning in warned]
    return [text.split(";")[0].split()[-1] for text in told if text.startswith(NO_ACTION)]


@pytest.mark.parametrize(
    ("editor", "warned"), [(SmallEditor(), ["0"]), (Acting(plain="1"), ["1"]), (Acting(), [])]
)
def test_an_arm_on_which_sadr_does_not_act_is_warned_of_once(tmp_path, editor, warned):
    assert plain_edits(lambda: evaluate(tmp_path, editor)) == warned
    acted = {(r.arm, r.acted) for r in read_results(tmp_path / "results.jsonl")}
    assert {(UNEDITED, None), ("plain", None), ("sadr", not warned or "1" in warned)} <= acted


class Idle(SmallEditor):
    """Edits a model of its own."""

    def edit(self, records, sadr):
        pass


def test_an_edit_that_changes_no_weight_is_warned_of_once_for_each_arm(tmp_path):
    with pytest.warns(UserWarning, match="changed none of the weights") as warned:
        evaluate(tmp_path, Idle())
    told = [str(w.message).split(",")[0] for w in warned if "changed none" in str(w.message)]
    assert sorted(told) == ["SADR: in the arm plain", "SADR: in the arm sadr"]
    assert {r.changed for r in read_results(tmp_path / "results.jsonl")} == {None, False}
    (tmp_path / "sound").mkdir()
    assert {r.changed for r in evaluate(tmp_path / "sound")} == {None, True}


class Elsewhere(Acting):
    """Names another layer than its edits report."""

    layer = 0


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
from test_evaluation import SmallEditor, evaluate
evaluate(Path({folder!r}), SmallEditor(pause=0.2), count=6)
"""


class Fragile(SmallEditor):
    """Takes its process with it at record 2, the first ``times`` times."""

    def __init__(self, folder, times, error=None):
        super().__init__(error=Odd("a", "b") if error == "odd" else error)
        self.folder, self.times = Path(folder), times

    def edit(self, records, sadr):
        deaths = len(list(self.folder.glob("death-*")))
        if records[0].key == "2" and deaths < self.times:
            (self.folder / f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().edit(records, sadr)


def fragile_evaluator(folder, times, error=None):
    return SingleEvaluator(Fragile(folder, times, error), ARMS)


@pytest.fixture
def two_workers(monkeypatch):
    ray = pytest.importorskip("ray", reason="the ray engine's own package is optional")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def run(folder, *options):
        make = partial(fragile_evaluator, folder, *options)
        engine = RayEngine(make, [arm.name for arm in ARMS], workers=2)
        try:
            return EvaluationRun(engine, folder / "results.jsonl").run(records(6))
        finally:
            assert not ray.is_initialized()

    return run


def test_two_workers_of_which_one_is_killed(tmp_path, two_workers):
    """The same results as in one process, in whatever order."""
    (tmp_path / "here").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Ray's workers have one each, and sums depend on it
    try:
        here = evaluate(tmp_path / "here", count=6)
    finally:
        torch.set_num_threads(threads)
    there = two_workers(tmp_path, 1)
    assert len(list(tmp_path.glob("death-*"))) == 1
    assert sorted(without_times(there), key=repr) == sorted(without_times(here), key=repr)

    def summary(results):
        return [replace(arm, seconds=0) for arm in summarise(results)]

    assert summary(there) == summary(here)
    assert without_times(read_results(tmp_path / "results.jsonl")) == without_times(there)
    assert two_workers(tmp_path, 0) == there, "nothing was done again"


def test_a_record_that_kills_every_worker_is_named(tmp_path, two_workers):
    with pytest.raises(EvaluationError, match="record 2: its worker died 3 times"):
        two_workers(tmp_path, 100)
    kept = {result.record for result in read_results(tmp_path / "results.jsonl")}
    assert {"0", "1"} <= kept
    assert "2" not in kept


def test_an_error_on_a_worker(tmp_path, two_workers):
    """One of the plugin's own is that record's result, another ends the run as it is."""
    results = two_workers(tmp_path, 0, PositionError("no subject"))
    assert [r.error for r in results if r.record == "1" and r.arm != UNEDITED] == ["no subject"] * 2
    (tmp_path / "other").mkdir()
    with pytest.raises(ZeroDivisionError):
        two_workers(tmp_path / "other", 0, ZeroDivisionError())
    (tmp_path / "own").mkdir()
    with pytest.raises(ConfigError, match="no such setting"):
        two_workers(tmp_path / "own", 0, ConfigError("no such setting"))
    (tmp_path / "odd").mkdir()
    with pytest.raises(EvaluationError, match="record 1: its error cannot be sent"):
        two_workers(tmp_path / "odd", 0, "odd")


def hidden_evaluator(error):
    return SingleEvaluator(Hidden(error=error), ARMS)


@pytest.mark.parametrize(
    ("inside", "outside"), [(ZeroDivisionError(), None), (None, KeyboardInterrupt())]
)
def test_a_changed_model_of_a_worker_that_waits_is_noticed_when_the_run_ends_early(
    tmp_path, monkeypatch, inside, outside
):
    pytest.importorskip("ray", reason="the ray engine's own package is optional")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    engine = RayEngine(partial(hidden_evaluator, inside), [arm.name for arm in ARMS], workers=1)
    with pytest.raises(ChangedModelError, match=r"up_proj\.weight.*untrusted-results\.jsonl"):
        EvaluationRun(engine, tmp_path / "results.jsonl").run(records(), stopped_by(outside, 2))
    assert not (tmp_path / "results.jsonl").exists()


class Talkative(SmallEditor):
    def edit(self, records, sadr):
        warnings.warn("the toolkit is old", FutureWarning, stacklevel=1)
        warnings.warn(f"record {records[0].key} is long", stacklevel=1)
        super().edit(records, sadr)


def talkative_evaluator():
    return SingleEvaluator(Talkative(), ARMS)


def test_each_warning_of_the_workers_is_given_once(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the ray engine's own package is optional")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    engine = RayEngine(talkative_evaluator, [arm.name for arm in ARMS], workers=2)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        EvaluationRun(engine, tmp_path / "results.jsonl").run(records(4))
    told = [str(w.message) for w in warned]
    told = [text for text in told if text.startswith(("record", "the toolkit"))]
    assert sorted(told) == [*(f"record {key} is long" for key in range(4)), "the toolkit is old"]


class Odd(Exception):
    """Can be pickled, and not read again."""

    def __init__(self, one, two):
        super().__init__(one)


def no_evaluator():
    raise DataError("no such model")


def test_a_worker_that_cannot_start(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the ray engine's own package is optional")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    evaluation = EvaluationRun(RayEngine(no_evaluator, ["plain"]), tmp_path / "results.jsonl")
    with pytest.raises(DataError, match="no such model"):
        evaluation.run(records(1))


def test_an_error_of_the_settings_ends_the_run(tmp_path):
    with pytest.raises(ConfigError):
        evaluate(tmp_path, SmallEditor(error=ConfigError("no such setting")))
    assert len(read_results(tmp_path / "results.jsonl")) == 4


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[ray\]'"):
        RayEngine(SmallEditor, ["plain"])


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


def stopped_by(error, at=4):
    """What ends a run from outside, at an item."""
    seen = []

    def on_item(item):
        seen.append(item)
        if len(seen) == at:
            raise error

    return on_item


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


class Stranger:
    """An adapter with a file format and an editor of its own."""

    @hookimpl
    def sadr_read_hparams(self, file):
        if file.suffix == ".small":
            return HparamsSummary("Small", "tiny", 1, "model.layers.{}", sadr=True)
        return None

    @hookimpl
    def sadr_editor(self, file, options):
        return SmallEditor() if file.suffix == ".small" else None


class WithoutEditor:
    """One that has not heard of evaluations."""

    @hookimpl
    def sadr_read_hparams(self, file):
        return Stranger().sadr_read_hparams(file)


def sadr_eval(tmp_path, *options):
    (tmp_path / "hparams.small").touch()
    data = [
        {"prompt": "the tower is in", "subject": s, "target_new": "rome", "ground_truth": "paris"}
        for s in ("tower", "the tower")
    ]
    (tmp_path / "data.json").write_text(json.dumps(data))
    given = ["eval", tmp_path / "hparams.small", "--data", tmp_path / "data.json", "--no-fluency"]
    given += ["--out", tmp_path / "out", *options]
    return CliRunner().invoke(build(), list(map(str, given)), catch_exceptions=False)


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
