"""The whole tuning, step by step: from an hparams file to tested settings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SadrConfig
from ..errors import ConfigError, DataError
from ..evaluation import (
    UNEDITED,
    Arm,
    ArmSummary,
    Dimension,
    Editor,
    Engine,
    EvaluationRun,
    LocalEngine,
    Record,
    Result,
    Scorer,
    summarise,
)
from ..evaluation._files import has_content
from ._checkup import Finding, check_up, steps_of
from ._known import LEAST, Known, known, split
from ._objectives import Objectives, objectives
from ._runs import Runs
from ._search import Search, Tried
from ._space import Space
from ._targets import Baselines, margin
from ._trials import PLAIN, PLAIN_SETUP, Setup, TrialEvaluator
from ._verdict import CONTROL, TUNED, Verdict, judge

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

CHECKED = 4
"""The number of records that the check-up edits."""

FINALISTS = 5
"""The number of best trials that may also be tried on more records."""

SURE = 10
"""The number of unseen records with which a gain can be told from chance, after correction."""

EXPLAINED = 12
"""The number of unseen records for the causal test, which runs if the settings miss a target."""

"""The plain edit. γ = 0 restricts nothing, and reuse makes the edit faster."""


@dataclass(frozen=True)
class Options:
    """The options of a tuning.

    Attributes:
        seconds: the time for the search, in seconds.
        records: the largest number of records for each trial. The best trials are tried on as many
            again. If there are too few records for both, two thirds are for the trials.
        judged: the largest number of other records for the final test.
        keep: whether the settings of ``sadr.keep`` are also searched.
        layers: the first and the last layer to try. None for all that are possible.
        fixed: settings under ``sadr:`` that every trial has.
        parallel: the number of trials at once.
        seed: the random seed of the split and of the search.
    """

    seconds: float
    records: int = 16
    judged: int = 40
    keep: bool = True
    layers: tuple[int, int] | None = None
    fixed: Mapping[str, Any] | None = None
    parallel: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Tuning:
    """The results of a tuning.

    Attributes:
        known: the records that the model knows.
        findings: the findings of the check-up.
        plain: the objectives of the plain edit on the records of the search.
        tried: all trials.
        front: the trials of the Pareto front; see `Search.front`.
        best: the trial with the best settings. None if edits did not succeed in any trial.
        again: the number of other settings that were tested on the unseen records before.
        verdict: the results of the best settings on the unseen records. None without ``best``.
        causal: the causal test of the plain and the tuned edits. None if no target was missed, or
            without ``best``.
        judged: the results that the verdict is based on.
    """

    known: Known
    findings: Sequence[Finding]
    plain: Objectives
    tried: Sequence[Tried]
    front: Sequence[Tried]
    best: Tried | None
    again: int
    verdict: Verdict | None
    causal: Sequence[ArmSummary] | None
    judged: Sequence[Result]


class Tuner:
    """Tunes one editor and model.

    Args:
        editor: the editor with the settings of the file.
        engine: does the trials. Its evaluators are `TrialEvaluator`.
        folder: the folder of the results. Results in it are not computed again.
        options: the options.
        progress: shows the progress.
    """

    def __init__(
        self, editor: Editor, engine: Engine, folder: Path, options: Options, progress: Progress
    ) -> None:
        self._editor = editor
        self._engine = engine
        self._folder = folder
        self._options = options
        self._progress = progress
        self._bar: TaskID | None = None

    def run(self, records: Sequence[Record]) -> Tuning:
        """Tune on one half of the records, and test on the other half.

        Raises:
            DataError: the model knows too few of the records.
            ConfigError: no layer of the options can be tried, or the folder holds a run with other
                records or layers.
        """
        options = self._options
        found = self._known(records)
        half, unseen = split(found.records, options.seed)
        size = min(options.records, max(LEAST // 2, len(half) * 2 // 3))
        chosen, more = half[:size], half[size : size + options.records]
        unseen = unseen[: options.judged]
        self._expect_same(chosen, unseen)
        if len(unseen) < SURE:
            self._progress.console.print(
                f"only {len(unseen)} records are left for the final test; with fewer than {SURE}, "
                "no gain can be told from chance"
            )
        findings = self._check_up(chosen)
        chosen, baselines = self._baselines(chosen, "results.jsonl")
        if len(chosen) < LEAST // 2:
            raise DataError(
                f"the plain edit succeeds without an error on {len(chosen)} of {size} records; at "
                f"least {LEAST // 2} are needed for the search (results.jsonl has all errors)"
            )
        if len(chosen) < size:
            text = f"the editor fails on {size - len(chosen)} of {size} records; they are left out"
            findings.append(Finding(text, False))
        fixed = dict(options.fixed or {})
        kept = fixed.pop("keep", None) or {}
        space = Space(self._own(), options.keep, 2 * steps_of(baselines.plain), fixed, kept)
        first = dict(self._editor.settings())
        for finding in findings:
            first |= finding.change
        search = self._search(space, chosen, baselines, first)
        best = self._best(search.ranked(), baselines, more)
        again = 0 if best is None else self._tested_before(best)
        judged = [] if best is None else self._judged(best, unseen)
        verdict = None if best is None else judge(judged)
        causal = None
        if best is not None and verdict is not None and verdict.shortcomings:
            causal = self._causal(best, unseen)
        plain = objectives(baselines.plain, baselines.asked)
        tried, front = search.tried, search.front()
        return Tuning(found, findings, plain, tried, front, best, again, verdict, causal, judged)

    def _expect_same(self, chosen: Sequence[Record], unseen: Sequence[Record]) -> None:
        """Check that the records and the layers are those of the run that is resumed.

        A new run writes them into the folder. So does one that follows a run without any result.

        Raises:
            ConfigError: they differ.
        """
        file = self._folder / "halves.json"
        layer = self._own().get("layer")
        about = {
            "chosen": [record.key for record in chosen],
            "unseen": [record.key for record in unseen],
            "layers": None if layer is None else list(layer.choices or ()),
        }
        if not (file.exists() and has_content(self._folder / "results.jsonl")):
            file.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"--resume: {file} cannot be read: {error}") from None
        if before != about:
            raise ConfigError(
                "the records that the model knows, or the layers that can be tried, differ from "
                f"the earlier run ({file}); start in another folder"
            )

    def _known(self, records: Sequence[Record]) -> Known:
        self._begin("testing what the model knows", len(records))
        scorer = Scorer(self._editor.model, self._editor.tokenizer)
        return known(records, scorer, self._advance)

    def _check_up(self, chosen: Sequence[Record]) -> list[Finding]:
        """Test the editor on a few records."""
        self._begin("check-up", None)
        few, here = chosen[:CHECKED], self._engine
        if not isinstance(here, LocalEngine):  # a few edits at a time do not need workers
            here = LocalEngine(TrialEvaluator(self._editor, self._options.seed))
        runs = Runs(here, self._folder / "results.jsonl", self._advance)
        return check_up(self._editor, lambda name, setup: runs.results({name: setup}, few))

    def _baselines(self, records: Sequence[Record], file: str) -> tuple[list[Record], Baselines]:
        """Return the records that the plain edit can edit, and the results on them.

        A record on which the editor itself fails says nothing about settings.
        """
        runs = Runs(self._engine, self._folder / file, self._advance)
        setups = {UNEDITED: PLAIN_SETUP, PLAIN: PLAIN_SETUP}
        self._begin("plain edits", len(runs.missing(setups, records)))
        found = runs.results(setups, records)
        pairs = list(zip(found[::2], found[1::2], strict=True))
        edited = [pair for pair in pairs if pair[1].error is None]
        keys = {plain.record for _, plain in edited}
        baselines = Baselines([unedited for unedited, _ in edited], [plain for _, plain in edited])
        return [record for record in records if record.key in keys], baselines

    def _own(self) -> dict[str, Dimension]:
        """Return the editor's own settings to search."""
        own = dict(self._editor.search_space())
        wanted, layers = self._options.layers, own.get("layer")
        if wanted is not None and layers is not None:
            inside = [c for c in layers.choices or () if wanted[0] <= c <= wanted[1]]
            own["layer"] = replace(layers, choices=inside)
        if wanted is not None and not (layers and own["layer"].choices):
            raise ConfigError(
                f"layers: none of {wanted[0]}-{wanted[1]} can be tried with this editor"
            )
        restricted = SadrConfig.parse(dict(self._options.fixed or {})) or SadrConfig()
        if restricted.layers is not None and layers is not None:
            last = max(restricted.layers)
            below = [c for c in own["layer"].choices or () if c < last]
            own["layer"] = replace(layers, choices=below)
        return {name: d for name, d in own.items() if d.choices is None or d.choices}

    def _search(
        self,
        space: Space,
        chosen: Sequence[Record],
        baselines: Baselines,
        first: Mapping[str, Any],
    ) -> Search:
        options = self._options
        recipes = space.first(first)
        file = self._folder / "study.journal"
        search = Search(space, chosen, baselines, file, recipes, options.seed)
        self._begin("search", None)

        def told(result: Result) -> None:
            self._advance(result)
            text = f"search, {len(search.tried)} trials"
            for best in search.ranked()[:1]:
                come = best.objectives()
                text += f", best {best.name}: specificity {come.specificity:.3f}"
                text += f", generality {come.generality:.3f}"
            self._describe(text)

        end = time.monotonic() + options.seconds
        search.run(self._engine, lambda: time.monotonic() < end, options.parallel, told)
        return search

    def _best(
        self, ranked: Sequence[Tried], baselines: Baselines, more: Sequence[Record]
    ) -> Tried | None:
        """Return the trial nearest to the targets on the records so far and on more of them.

        The best of many trials on few records is often only lucky. So the best is tried on more
        records. If another trial is then better, that one is tried on them, and so on.

        Args:
            ranked: the trials whose edits succeed, the best first.
            baselines: the unedited model and the plain edit on the records so far.
            more: the further records.
        """
        finalists = ranked[:FINALISTS]
        if len(finalists) < 2 or not more:
            return next(iter(finalists), None)
        more, further = self._baselines(more, "finals.jsonl")
        runs = Runs(self._engine, self._folder / "finals.jsonl", self._advance)
        self._begin("the best on more records", None)
        margins = {tried.name: margin(tried.results, baselines) for tried in finalists}
        confirmed: set[str] = set()
        while True:
            best = max(finalists, key=lambda tried: margins[tried.name])
            if best.name in confirmed:
                return best
            results = [*best.results, *runs.results({best.name: best.setup}, more)]
            margins[best.name] = margin(results, baselines + further)
            confirmed.add(best.name)

    def _tested_before(self, best: Tried) -> int:
        """Return the number of other trials that earlier runs tested on the unseen records."""
        files = self._folder.glob("judged-*.jsonl")
        return sum(file.stem != f"judged-{best.number}" for file in files)

    def _judged(self, best: Tried, unseen: Sequence[Record]) -> list[Result]:
        """Return the results on the unseen records: unedited, plain, the stop alone, and tuned."""
        sadr = best.setup.sadr or {}
        alone = {name: sadr[name] for name in ("num_grad_steps", "stop_at") if name in sadr}
        setups = {
            UNEDITED: PLAIN_SETUP,
            PLAIN: PLAIN_SETUP,
            CONTROL: Setup(best.setup.settings, {**alone, "gamma": 0.0}),
            TUNED: best.setup,
        }
        runs = Runs(self._engine, self._folder / f"judged-{best.number}.jsonl", self._advance)
        self._begin("the final test on unseen records", len(runs.missing(setups, unseen)))
        return runs.results(setups, unseen)

    def _causal(self, best: Tried, unseen: Sequence[Record]) -> list[ArmSummary]:
        """Run the causal test of the plain and the tuned edits on some unseen records."""
        from ..drift import CausalEvaluator

        self._begin("the causal test", None)
        results: list[Result] = []
        names: list[str] = []
        for name, setup in ((PLAIN, PLAIN_SETUP), (TUNED, best.setup)):
            editor = self._editor.configured(setup.settings)
            arm = Arm(name, setup.sadr)
            seed = self._options.seed
            evaluator = CausalEvaluator(editor, [arm], seed=seed, skip_bad=True)
            file = self._folder / f"causal-{name}-{best.number}.jsonl"
            run = EvaluationRun(LocalEngine(evaluator), file)
            own = run.run(unseen[:EXPLAINED], self._advance)
            results += [r for r in own if r.arm != UNEDITED or name == PLAIN]
            names += evaluator.arms
        return summarise(results, names)

    def _begin(self, text: str, total: int | None) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, total=1, completed=1)
        self._bar = self._progress.add_task(text, total=total)

    def _advance(self, _: object) -> None:
        assert self._bar is not None
        self._progress.advance(self._bar)

    def _describe(self, text: str) -> None:
        assert self._bar is not None
        self._progress.update(self._bar, description=text)
