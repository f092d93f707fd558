"""Evaluations on workers of Ray."""

import os
import signal
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

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
    RayEngine,
    SingleEvaluator,
    read_results,
    summarise,
)


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


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvaluationError, match=r"pip install 'sadr-plugin\[ray\]'"):
        RayEngine(SmallEditor, ["plain"])
