"""The search: Optuna proposes settings, records test them, and hopeless trials end early."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..evaluation import Engine, Record, Result
from ..evaluation._watch import ItemWatch
from ._objectives import Asked, Objectives, failures_allowed, objectives
from ._space import RECIPES, Space
from ._targets import Baselines, margin
from ._trials import Setup, TrialTask

if TYPE_CHECKING:
    import optuna

FIRST = 4
"""The number of records after which a trial may end because another trial is better."""

MARGIN = 0.02
"""How much better the other trial has to be on the same records, in both objectives."""


@dataclass
class Tried:
    """A trial of the search.

    Attributes:
        number: Optuna's number of the trial.
        parameters: the parameters that Optuna proposed.
        setup: the setup with these parameters.
        asked: the number of questions of each record.
        results: the results so far, in the order of the records.
        given_up: whether the trial ended before its last record.
    """

    number: int
    parameters: Mapping[str, Any]
    setup: Setup
    asked: Asked
    results: list[Result] = field(default_factory=list)
    given_up: bool = False

    @property
    def name(self) -> str:
        """The arm of the trial's results."""
        return f"trial {self.number}"

    def objectives(self, count: int | None = None) -> Objectives:
        """Return the objectives on the trial's records, or on the first ``count`` of them."""
        return objectives(self.results[:count], self.asked)

    @property
    def failures(self) -> int:
        """The number of edits that failed."""
        return round((1 - self.objectives().efficacy) * len(self.results))


class Search:
    """A new search, or the continuation of an earlier one.

    Args:
        space: the settings to search.
        records: the records that each trial edits, in this order.
        baselines: the results of the unedited model and of the plain edit on these records.
        file: Optuna's journal. The trials in it count.
        first: parameters to try first.
        seed: the random seed of the sampler. A continued search draws other parameters.

    Attributes:
        tried: the trials that have ended, with those of earlier runs.

    Raises:
        EvaluationError: Optuna is not installed.
    """

    def __init__(
        self,
        space: Space,
        records: Sequence[Record],
        baselines: Baselines,
        file: Path,
        first: Iterable[Mapping[str, Any]],
        seed: int = 0,
    ) -> None:
        self._space = space
        self._records = list(records)
        self._baselines = baselines
        self._asked = baselines.asked
        self._file = file
        self._study = _study(file, seed)
        self._running: dict[str, tuple[optuna.Trial, Tried]] = {}
        self.tried = [self._again(trial) for trial in self._study.trials if _is_done(trial)]
        self._forget_unfinished()
        done = [tried.parameters for tried in self.tried]
        for parameters in first:
            if not any(parameters.items() <= own.items() for own in done):
                self._study.enqueue_trial(dict(parameters))

    def run(
        self,
        engine: Engine,
        goes_on: Callable[[], bool],
        parallel: int = 1,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        """Run trials until ``goes_on`` returns False. Unfinished trials are then dropped.

        Args:
            engine: does the tasks.
            goes_on: whether there is time for more. It is called after each result.
            parallel: the number of trials at once.
            on_result: called with each result.
        """
        queue: deque[TrialTask] = deque()
        for _ in range(parallel):
            queue.append(self._start())
        try:
            with ItemWatch(self._file, by_arm=False).items(engine, queue) as items:
                for result in items:
                    assert isinstance(result, Result)
                    queue.extend(self._after(result, goes_on))
                    on_result(result)
        finally:
            self._running.clear()
            self._forget_unfinished()

    def _after(self, result: Result, goes_on: Callable[[], bool]) -> list[TrialTask]:
        """Return the tasks that follow a result, or none if the time is over."""
        trial, tried = self._running[result.arm]
        tried.results.append(result)
        finished = len(tried.results) == len(self._records)
        if finished or self._is_hopeless(tried):
            tried.given_up = not finished
            self._finish(trial, tried)
            return [self._start()] if goes_on() else []
        return [self._next(tried)] if goes_on() else []

    @property
    def finished(self) -> list[Tried]:
        """The trials that edited every record."""
        return [tried for tried in self.tried if not tried.given_up]

    def front(self) -> list[Tried]:
        """Return the Pareto front of the finished trials whose edits succeed.

        No other such trial is at least as good in both objectives and better in one.
        """
        found = [(tried, tried.objectives()) for tried in self._taking()]
        return [one for one, own in found if not any(other.beats(own) for _, other in found)]

    def ranked(self) -> list[Tried]:
        """Return the finished trials whose edits succeed, the closest to the targets first."""

        def key(tried: Tried) -> tuple[float, float]:
            return margin(tried.results, self._baselines), tried.objectives().specificity

        return sorted(self._taking(), key=key, reverse=True)

    def _taking(self) -> list[Tried]:
        """Return the finished trials whose edits succeed."""
        allowed = failures_allowed(len(self._records))
        return [tried for tried in self.finished if tried.failures <= allowed]

    def _start(self) -> TrialTask:
        trial = self._study.ask()
        self._space.suggest(trial)
        setup = self._space.setup(trial.params)
        tried = Tried(trial.number, trial.params, setup, self._asked)
        self._running[tried.name] = trial, tried
        return self._next(tried)

    def _next(self, tried: Tried) -> TrialTask:
        return TrialTask(tried.name, tried.setup, self._records[len(tried.results)])

    def _finish(self, trial: optuna.Trial, tried: Tried) -> None:
        found = self._expected(tried)
        trial.set_user_attr("results", [asdict(result) for result in tried.results])
        trial.set_user_attr("given_up", tried.given_up)
        trial.set_constraint("efficacy", tried.failures - failures_allowed(len(self._records)))
        self._study.tell(trial, (found.specificity, found.generality))
        del self._running[tried.name]
        self.tried.append(tried)

    def _expected(self, tried: Tried) -> Objectives:
        """Return the objectives on all records. For a trial that ended early, they are estimated.

        Its first records may be easier than the rest. So the trial that was better on these records
        gives the scale: the distance from it is the same on all records.
        """
        own, count = tried.objectives(), len(tried.results)
        better = self._better(tried) if tried.given_up else None
        if better is None:
            return own
        then, whole = better.objectives(count), better.objectives()
        return replace(
            own,
            specificity=whole.specificity - (then.specificity - own.specificity),
            generality=whole.generality - (then.generality - own.generality),
        )

    def _forget_unfinished(self) -> None:
        """Mark running and waiting trials as failed, so that the sampler ignores them."""
        from optuna.trial import TrialState

        open_ones = (TrialState.RUNNING, TrialState.WAITING)
        if self._file.exists():
            for trial in self._study.get_trials(deepcopy=False, states=open_ones):
                if trial.state == TrialState.WAITING:
                    self._study.ask()  # this starts it, because it is the next one
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _is_hopeless(self, tried: Tried) -> bool:
        """Whether too many edits failed, or another trial was better on the same records."""
        if tried.failures > failures_allowed(len(self._records)):
            return True
        return len(tried.results) >= FIRST and self._better(tried) is not None

    def _better(self, tried: Tried) -> Tried | None:
        """Return a trial that was clearly better on the same records, in both objectives."""
        count, found = len(tried.results), tried.objectives()
        for other in self._taking():
            then = other.objectives(count)
            if (
                then.specificity > found.specificity + MARGIN
                and then.generality > found.generality + MARGIN
                and then.efficacy >= found.efficacy
            ):
                return other
        return None

    def _again(self, trial: optuna.trial.FrozenTrial) -> Tried:
        """Restore a trial of an earlier run."""
        results = [Result.from_data(dict(data)) for data in trial.user_attrs["results"]]
        setup = self._space.setup(trial.params)
        given_up = trial.user_attrs["given_up"]
        return Tried(trial.number, trial.params, setup, self._asked, results, given_up)


def _is_done(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state.is_finished() and "results" in trial.user_attrs


def expect_optuna() -> None:
    """Check that the search can run.

    Raises:
        EvaluationError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise EvaluationError("Optuna is not installed; pip install 'sadr-plugin[tune]'") from None


def _study(file: Path, seed: int) -> optuna.Study:
    expect_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="tune",
        storage=JournalStorage(JournalFileBackend(str(file))),
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            # With the same seed, a continued search would draw the same parameters again.
            seed=seed + len(study.trials),
            multivariate=True,
            group=True,
            n_startup_trials=len(RECIPES) + 2,
            constant_liar=True,
        )
    return study
