"""Records spread over the workers of a Ray cluster, a model for each."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import EvaluationError, SadrError
from .._results import Result
from . import Todo
from ._local import LocalEngine

if TYPE_CHECKING:
    import ray

ATTEMPTS = 3
"""How often a record is begun whose worker dies."""


class RayEngine:
    """Evaluates on the workers of a Ray cluster.

    The cluster is the one Ray finds: the process's own connection, ``RAY_ADDRESS``, one started
    on this machine; else this machine alone. Results come a whole record at a time. A worker
    that dies is replaced, and the record in its hands begun anew.

    Args:
        make: makes a worker's engine, on the worker; everything it names (modules, files)
            has to be there.
        arms: the names of that engine's arms.
        workers: how many; None for one on each GPU of the cluster, or one if there is none.

    Raises:
        EvaluationError: Ray is not installed.
    """

    def __init__(
        self, make: Callable[[], LocalEngine], arms: Sequence[str], workers: int | None = None
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

    def results(self, todo: Iterable[Todo]) -> Iterator[Result]:
        """See `Engine.results`; records come as they are finished.

        After an error no record is begun any more, and those under way are finished first.

        Raises:
            EvaluationError: besides, a worker could not start; or a record's worker died at each
                attempt, naming the record.
        """
        waiting = deque((task, 1) for task in todo)
        if not waiting:
            return
        failure: Exception | None = None
        with _connected(), contextlib.ExitStack() as workers:
            import ray

            gpus = int(ray.cluster_resources().get("GPU", 0))
            count = self._workers or max(1, gpus)
            share = 1 / math.ceil(count / gpus) if gpus else 0
            idle: list[Any] = []
            running: dict[ray.ObjectRef[list[Result]], tuple[Any, Todo, int]] = {}
            while running or (waiting and failure is None):
                while waiting and failure is None and len(running) < count:
                    worker = idle.pop() if idle else self._worker(workers, share)
                    task, attempt = waiting.popleft()
                    running[worker.evaluate.remote(task)] = worker, task, attempt
                (finished, *_), _ = ray.wait(list(running))
                worker, task, attempt = running.pop(finished)
                try:
                    results = ray.get(finished)
                except ray.exceptions.RayTaskError as error:
                    own = isinstance(error.cause, SadrError)
                    failure = failure or (error.cause if own else error)
                except ray.exceptions.RayError as error:
                    if getattr(error, "actor_init_failed", False):
                        failure = failure or EvaluationError(f"a worker could not start: {error}")
                    elif attempt == ATTEMPTS:
                        failure = failure or EvaluationError(
                            f"record {task[0].key}: its worker died {ATTEMPTS} times: {error}"
                        )
                    else:
                        waiting.appendleft((task, attempt + 1))
                else:
                    idle.append(worker)
                    yield from results
        if failure is not None:
            raise failure

    def _worker(self, workers: contextlib.ExitStack, gpus: float) -> Any:
        import ray

        worker = ray.remote(_Worker).options(num_gpus=gpus).remote(os.getcwd(), self._make)
        workers.callback(ray.kill, worker)
        return worker


class _Worker:
    """A process with a model of its own."""

    def __init__(self, folder: str, make: Callable[[], LocalEngine]) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths in hparams are the driver's
        self._engine = make()

    def evaluate(self, task: Todo) -> list[Result]:
        return list(self._engine.results([task]))


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Ray, connected; afterwards disconnected again unless it was before."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
