"""Records spread over the workers of a Ray cluster, a model for each."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError, SadrError
from .evaluator import Evaluator, Todo
from .results import Result

if TYPE_CHECKING:
    import ray

ATTEMPTS = 3
"""How often a record is begun whose worker dies."""


class RayEngine:
    """Evaluates on the workers of a Ray cluster.

    The cluster is the one Ray finds: the process's own connection, ``RAY_ADDRESS``, one started
    on this machine; else this machine alone. A worker that dies is started again, and the
    record in its hands is given to it once more.

    Args:
        make: makes a worker's evaluator, on the worker; everything it names (modules, files)
            has to be there.
        arms: the names of that evaluator's arms.
        workers: how many; None for one on each GPU of the cluster, or one if there is none.

    Raises:
        EvaluationError: Ray is not installed.
    """

    def __init__(
        self,
        make: Callable[[], Evaluator],
        arms: Sequence[str],
        workers: int | None = None,
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
        """See `sadr_plugin.evaluation.run.Engine.results`; records come as they are finished.

        Raises:
            EvaluationError: besides, a record's worker died at each attempt, naming the record.
        """
        waiting = deque(todo)
        with _connected(), contextlib.ExitStack() as stack:
            import ray

            idle = [self._worker(stack) for _ in range(min(self._count(), len(waiting)))]
            running: dict[ray.ObjectRef[list[Result]], tuple[Any, Todo]] = {}
            while waiting or running:
                while waiting and idle:
                    worker, task = idle.pop(), waiting.popleft()
                    running[worker.evaluate.remote(task)] = worker, task
                (finished, *_), _ = ray.wait(list(running))
                worker, (record, _done) = running.pop(finished)
                try:
                    results = ray.get(finished)
                except ray.exceptions.RayActorError as error:
                    raise EvaluationError(
                        f"record {record.key}: its worker died {ATTEMPTS} times: {error}"
                    ) from None
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, SadrError):
                        raise error.cause from None
                    raise
                idle.append(worker)
                yield from results

    def _count(self) -> int:
        import ray

        return self._workers or max(1, int(ray.cluster_resources().get("GPU", 0)))

    def _worker(self, stack: contextlib.ExitStack) -> Any:
        import ray

        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= self._count() else 0
        worker = (
            ray.remote(_Worker)
            .options(num_gpus=gpus, max_restarts=-1, max_task_retries=ATTEMPTS - 1)
            .remote(os.getcwd(), self._make)
        )
        stack.callback(ray.kill, worker)
        return worker


class _Worker:
    """A process with a model of its own."""

    def __init__(self, folder: str, make: Callable[[], Evaluator]) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths in hparams are the driver's
        self._evaluator = make()

    def evaluate(self, task: Todo) -> list[Result]:
        return list(self._evaluator.results([task]))


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
