"""Distribute tasks over the workers of a Ray cluster. Each worker has its own model."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ChangedModelError, EvaluationError, SadrError
from . import Evaluator, Item

if TYPE_CHECKING:
    import ray
    from ray.util.placement_group import PlacementGroup

ATTEMPTS = 3
"""The number of times that a task is started if its workers die."""

PATIENCE = 60.0
"""The seconds that the cluster has to start a worker, and to find it a GPU or a share of one."""


@dataclass
class _Running:
    """A worker with its task."""

    worker: Any
    task: Any
    attempt: int


@dataclass
class _Done:
    """What a worker found in a task, and the texts of its warnings."""

    items: list[Item]
    warnings: list[str]


class RayEngine:
    """Evaluates on the workers of a Ray cluster.

    Ray chooses the cluster: the connection of this process, ``RAY_ADDRESS``, or a cluster started
    on this machine. Otherwise it uses this machine alone. Items arrive one whole task at a time. A
    worker that dies is replaced, and its task starts again. If the cluster has no GPU for some of
    the workers, the engine continues without them and warns. Workers reserve no CPUs, so there may
    be more of them than CPUs. Each warning of the workers is given once, in this process.

    Args:
        make: makes a worker's evaluator, on the worker. All modules and files that it uses have to
            exist there.
        arms: the names of that evaluator's arms.
        workers: the number of workers. None for one on each GPU of the cluster, or one if there is
            no GPU.
        threads: the number of threads that torch may use on each worker. None takes Ray's choice,
            one.

    Raises:
        EvaluationError: Ray is not installed.
    """

    def __init__(
        self,
        make: Callable[[], Evaluator],
        arms: Sequence[str],
        workers: int | None = None,
        threads: int | None = None,
    ) -> None:
        try:
            import ray  # noqa: F401
        except ImportError:
            raise EvaluationError(
                "Ray is not installed; pip install 'sadr-plugin[ray]', or use the local engine"
            ) from None
        self.arms = arms
        self._make = make
        self._workers = workers
        self._threads = threads

    def items(self, queue: deque[Any]) -> Generator[Item, None, None]:
        """Do the tasks and yield their items as tasks finish; see `Engine.items`.

        After an error no new task is started. Running tasks are finished first. After an interrupt,
        or if the caller closes the generator early, only the models of idle workers are checked.

        Raises:
            EvaluationError: as `Engine.items`; a worker could not start; the cluster has no room
                for any worker; or a task's worker died at each attempt.
        """
        if not queue:
            return
        with _connected(), contextlib.ExitStack() as stack:
            yield from _Crew(self, stack).items(queue)


class _Crew:
    """The workers of one run."""

    def __init__(self, engine: RayEngine, stack: contextlib.ExitStack) -> None:
        import ray

        self._ray = ray
        self._stack = stack
        self._make = engine._make
        self._threads = engine._threads
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self._count = engine._workers or max(1, gpus)
        self._gpu_share = 1 / math.ceil(self._count / gpus) if gpus else 0
        self._idle: list[Any] = []
        self._running: dict[ray.ObjectRef[_Done], _Running] = {}
        self._starting: list[ray.ObjectRef[None]] = []
        self._places: dict[Any, PlacementGroup] = {}
        self._failure: Exception | None = None
        self._warned: set[str] = set()

    def items(self, queue: deque[Any]) -> Iterator[Item]:
        try:
            yield from self._items(queue)
        except BaseException:  # an interrupt, or GeneratorExit: the caller has ended the run
            self._finish(PATIENCE)
            if isinstance(self._failure, ChangedModelError):
                raise self._failure from None
            raise
        self._finish()
        if self._failure is not None:
            raise self._failure

    def _items(self, queue: deque[Any]) -> Iterator[Item]:
        waiting = deque[tuple[Any, int]]()
        while self._running or waiting or queue:
            waiting.extend((queue.popleft(), 1) for _ in range(len(queue)))
            if self._failure is not None:
                waiting.clear()
            while waiting and len(self._running) < self._count:
                self._begin(*waiting.popleft())
            if not self._running:
                break
            finished, _ = self._ray.wait(list(self._running), timeout=PATIENCE)
            if finished:
                yield from self._outcome(finished[0], waiting)
            elif not self._give_up_unplaced(waiting):
                self._warn_of_late_starts()

    def _begin(self, task: Any, attempt: int) -> None:
        worker = self._idle.pop() if self._idle else self._new_worker()
        self._running[worker.items.remote(task)] = _Running(worker, task, attempt)

    def _outcome(
        self, finished: ray.ObjectRef[_Done], waiting: deque[tuple[Any, int]]
    ) -> list[Item]:
        """Return what a worker found. If it died, return nothing and queue its task again."""
        exceptions = self._ray.exceptions
        of = self._running.pop(finished)
        try:
            done: _Done = self._ray.get(finished)
        except exceptions.RayTaskError as error:
            self._idle.append(of.worker)  # its model is still to be checked
            self._fail(error.cause if isinstance(error.cause, SadrError) else error)
        except exceptions.UnserializableException as error:
            self._idle.append(of.worker)
            self._fail(EvaluationError(f"{_name(of.task)}: its error cannot be sent: {error}"))
        except exceptions.RayError as error:
            self._release(of.worker)  # an unreachable worker would keep its place
            if getattr(error, "actor_init_failed", False):
                self._fail(EvaluationError(f"a worker could not start: {error}"))
            elif of.attempt == ATTEMPTS:
                name = _name(of.task)
                self._fail(EvaluationError(f"{name}: its worker died {ATTEMPTS} times: {error}"))
            else:
                waiting.appendleft((of.task, of.attempt + 1))
        else:
            self._idle.append(of.worker)
            for text in done.warnings:
                if text not in self._warned:
                    self._warned.add(text)
                    warnings.warn(text, stacklevel=2)
            return done.items
        return []

    def _give_up_unplaced(self, waiting: deque[tuple[Any, int]]) -> bool:
        """Continue without the workers for which the cluster has no room.

        Returns:
            Whether there are such workers.
        """
        unplaced = [
            (reference, of)
            for reference, of in self._running.items()
            if of.worker in self._places and not self._places[of.worker].wait(1)
        ]
        if not unplaced:
            return False
        free = {k: v for k, v in self._ray.available_resources().items() if k in ("CPU", "GPU")}
        needs = f"each needs {self._gpu_share:g} of a GPU; free in the cluster: {free or 'nothing'}"
        why = (
            f"for {PATIENCE:.0f} seconds the cluster had no room for {len(unplaced)} of "
            f"{self._count} workers ({needs})"
        )
        for reference, of in unplaced:
            del self._running[reference]
            self._release(of.worker)
            waiting.appendleft((of.task, of.attempt))
        self._count -= len(unplaced)
        if self._count == 0:
            waiting.clear()
            self._fail(EvaluationError(f"{why}; free some GPUs, or give another number of workers"))
        else:
            warnings.warn(
                f"SADR: {why}; the run continues with the other {self._count}", stacklevel=2
            )
        return True

    def _warn_of_late_starts(self) -> None:
        """Name the workers that have not started, once. They may still do so."""
        starting, self._starting = self._starting, []
        if not starting:
            return
        _, late = self._ray.wait(starting, num_returns=len(starting), timeout=0)
        if late:
            warnings.warn(
                f"SADR: {len(late)} of {self._count} workers have not started for "
                f"{PATIENCE:.0f} seconds, and the run waits for them; `ray status` says what the "
                "cluster lacks; stop the run and give fewer workers if they never start",
                stacklevel=2,
            )

    def _finish(self, patience: float | None = None) -> None:
        """Check the models of the workers that have nothing to do.

        Args:
            patience: the seconds to wait for each. None for as long as it takes.
        """
        for answer in [worker.finish.remote() for worker in self._idle]:
            try:
                self._ray.get(answer, timeout=patience)
            except self._ray.exceptions.RayTaskError as error:
                self._fail(error.cause if isinstance(error.cause, SadrError) else error)
            except self._ray.exceptions.RayError:
                pass  # a dead worker has no model to check

    def _fail(self, error: Exception) -> None:
        """Note why the run ends. A changed model goes before any other reason."""
        if self._failure is None or isinstance(error, ChangedModelError):
            self._failure = error

    def _new_worker(self) -> Any:
        # A reserved CPU would be held for the worker's whole life. Without one for each worker, the
        # others would never start.
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": self._gpu_share}
        place = None
        if self._gpu_share:  # without a GPU, a worker needs no placement group
            from ray.util.placement_group import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            place = placement_group([{"GPU": self._gpu_share}])
            strategy = PlacementGroupSchedulingStrategy(placement_group=place)
            options["scheduling_strategy"] = strategy
        actor = self._ray.remote(_Worker).options(**options)
        worker = actor.remote(os.getcwd(), self._make, self._threads)
        if place is not None:
            self._places[worker] = place
        self._stack.callback(self._release, worker)
        self._starting.append(worker.started.remote())
        return worker

    def _release(self, worker: Any) -> None:
        """End a worker, and free its place for another."""
        self._ray.kill(worker)
        place = self._places.pop(worker, None)
        if place is not None:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(place)


def _name(task: Any) -> str:
    record = getattr(task, "record", None)
    return f"record {record.key}" if record is not None else f"{task.arm}, {task.end} edits"


class _Worker:
    """A process with its own model, which is loaded for the first task."""

    def __init__(self, folder: str, make: Callable[[], Evaluator], threads: int | None) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths in hparams are relative to the driver's folder
        self._make = make
        self._threads = threads
        self._evaluator: Evaluator | None = None

    def started(self) -> None:
        """Do nothing. Ray answers this call when the worker has started."""

    def items(self, task: Any) -> _Done:
        # Nobody sees what a worker prints. Texts can be sent whatever the category's class.
        with warnings.catch_warnings(record=True) as warned:
            if self._evaluator is None:
                if self._threads is not None:
                    import torch

                    torch.set_num_threads(self._threads)
                self._evaluator = self._make()
            items = list(self._evaluator.items(task))
        return _Done(items, [str(warning.message) for warning in warned])

    def finish(self) -> None:
        if self._evaluator is not None:
            self._evaluator.finish()


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Connect to Ray. Disconnect afterwards if there was no connection before."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
