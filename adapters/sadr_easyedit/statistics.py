"""The second moments that ROME, MEMIT, PMET and AlphaEdit need, computed offline.

EasyEdit computes them from Wikipedia, which it downloads from a hub, one module at a time. This
module accepts any text, and computes them for all modules in one pass over it. The files, their
format, the sampling and the running sums are EasyEdit's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin.attention._inputs import input_device
from sadr_plugin.errors import ConfigError

from .hparams_files import rewritten_modules
from .statistics_files import statistic_fault, width_of

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor, nn

TOKENS_PER_WIDTH = 10
"""The least number of tokens for each dimension of a layer.

A second moment of width d has at most rank d after d tokens. Its inverse is meaningful only from
ten times that number.
"""

TEXTS_PER_GROUP = 100
"""The number of texts that EasyEdit tokenizes at once and sorts into batches."""

TOKENS_PER_FORWARD = 2048
"""The number of tokens in one forward.

EasyEdit itself fills batches up to three times the model's context, mostly with padding.
"""

SECONDS_BETWEEN_SAVES = 30.0

SET_ASIDE = ".damaged"
"""The end of the name of a file that could not be used."""


@dataclass(frozen=True)
class Job:
    """What to compute: one second moment for each module's input.

    Attributes:
        model: the model that will be edited.
        tokenizer: the model's tokenizer.
        hparams: the editor's hparams. They say which statistics EasyEdit needs, and in which files.
    """

    model: nn.Module
    tokenizer: Any
    hparams: Any

    def module_names(self) -> list[str]:
        """Return the names of the modules whose inputs are measured."""
        return rewritten_modules(self.hparams)

    def tokens_needed(self) -> int:
        """Return the least number of tokens for the widest of the modules.

        Raises:
            ConfigError: the model does not have one of the modules.
        """
        widest: int = max(self.width(name) for name in self.module_names())
        return TOKENS_PER_WIDTH * widest

    def tokens_in(self, texts: Sequence[str]) -> int:
        """Return how many tokens EasyEdit would use. It samples mom2_n_samples of the texts."""
        sample = min(len(texts), self.hparams.mom2_n_samples)
        encoded = self.tokenizer(list(texts))["input_ids"]
        longest = getattr(self.model.config, "max_position_embeddings", None) or 2**31
        total = sum(min(len(ids), longest) for ids in encoded)
        return int(total * sample / max(len(texts), 1))

    def check(self, texts: Sequence[str]) -> None:
        """Check that there is enough text.

        Raises:
            ConfigError: there is too little. The message says how many tokens are needed.
        """
        found, needed = self.tokens_in(texts) if texts else 0, self.tokens_needed()
        if found < needed:
            raise ConfigError(
                f"corpus: {found:,} tokens are too few for a layer of width "
                f"{needed // TOKENS_PER_WIDTH:,}; at least {needed:,} are needed "
                f"({TOKENS_PER_WIDTH} for each dimension; mom2_n_samples is "
                f"{self.hparams.mom2_n_samples:,} texts)"
            )

    def width(self, name: str) -> int:
        """Return the width of a module's input.

        Raises:
            ConfigError: the model does not have the module.
        """
        try:
            return width_of(self.model.get_submodule(name))
        except AttributeError as error:
            raise ConfigError(f"rewrite_module_tmp: the model has no module {name!r}") from error


def missing(job: Job) -> list[str]:
    """Return the names of the modules whose statistics EasyEdit would not find."""
    return [name for name, file in files(job).items() if not file.exists()]


def damaged(job: Job) -> dict[str, str]:
    """Return what is wrong with statistics that exist, by the name of the module."""
    found = {
        name: statistic_fault(file, job.width(name))
        for name, file in files(job).items()
        if file.exists()
    }
    return {name: fault for name, fault in found.items() if fault is not None}


def files(job: Job) -> dict[str, Path]:
    """Return the file in which EasyEdit looks for the statistics, for each module."""
    return {name: _statistic(job, name, []).file for name in job.module_names()}


def remarks(job: Job) -> list[str]:
    """Return what is wrong with the statistics that EasyEdit would find, one text each."""
    import numpy as np

    found = []
    for name, file in files(job).items():
        if not file.exists():
            found.append(f"{name} has no layer statistics; compute them with sadr stats")
            continue
        fault = statistic_fault(file, job.width(name))
        if fault is not None:
            found.append(f"{name}: {fault}")
            continue
        with np.load(file) as kept:
            count = int(kept["mom2.count"])
        needed = TOKENS_PER_WIDTH * job.width(name)
        if count < needed:
            found.append(
                f"{name}: its statistics are of {count:,} tokens, fewer than {needed:,} "
                f"({TOKENS_PER_WIDTH} for each dimension); compute them of more text"
            )
    return found


def faults(hparams: Any, model: nn.Module) -> list[str]:
    """Return what is wrong with the layer statistics that an edit would read, a text for each.

    Args:
        hparams: the editor's hparams, or their values under the same names.
        model: the model that will be edited. It may have no weights.
    """
    job = Job(model, None, hparams)
    found = []
    for name, file in files(job).items():
        if not file.exists():
            found.append(f"{name} has no layer statistics; compute them with sadr stats")
        elif fault := statistic_fault(file, job.width(name)):
            found.append(f"{name}: {fault}")
    return found


def compute(job: Job, texts: Sequence[str], progress: Progress) -> list[str]:
    """Compute the missing statistics in one pass over ``texts``. Return the names of their modules.

    Those that are damaged, or were made for another model, are set aside and computed anew. The
    sums of an interrupted run are stored. The next run of the same job with the same texts
    continues from them. A file of statistics appears only when it is complete.

    Raises:
        ConfigError: there is too little text, or the model's activations are not finite.
    """
    spoiled = damaged(job)
    names = [*missing(job), *spoiled]
    if not names:
        return []
    job.check(texts)
    for name in spoiled:
        # EasyEdit makes no data set for a file that exists.
        file = files(job)[name]
        file.replace(file.with_name(f"{file.name}{SET_ASIDE}"))
    executed = [name for name, _ in job.model.named_modules()]  # TraceDict stops at the last
    todo = [_statistic(job, name, texts) for name in sorted(names, key=executed.index)]
    groups = -(-min(len(texts), job.hparams.mom2_n_samples) // TEXTS_PER_GROUP)
    task = progress.add_task("layer statistics", total=groups)
    unfinished = _Unfinished(job, texts)
    done = unfinished.load(todo)
    for group in _groups(todo[0], done):
        _add(job, todo, group)
        done += 1
        progress.update(task, completed=done)
        unfinished.save(todo, done)
    unfinished.discard()
    for statistic in todo:
        statistic.check()
    for statistic in todo:
        statistic.save()
    return names


@dataclass(frozen=True)
class Statistic:
    """One module's second moment, with what EasyEdit would use to compute it.

    Attributes:
        module: the name of the module whose input is measured.
        file: the file in which EasyEdit looks for the finished statistic.
        sums: EasyEdit's running statistic.
        dataset: the texts, tokenized as EasyEdit does it.
        loading: EasyEdit's arguments for its data loader.
    """

    module: str
    file: Path
    sums: Any
    dataset: Any
    loading: dict[str, Any]

    def check(self) -> None:
        """Check the sums before anything is written.

        Raises:
            ConfigError: they are not finite.
        """
        if not self.sums.mom2.mom2.isfinite().all():
            raise ConfigError(
                f"{self.module}: its layer statistics are not finite, because the model computes "
                "NaN or infinity for these texts; nothing was written. Load the model in float32 "
                "(--dtype float32)"
            )

    def save(self) -> None:
        """Write the file. It appears only when it is complete."""
        from easyeditor.util.runningstats import save_cached_state

        self.sums.to_("cpu")
        part = self.file.with_name(f".{self.file.stem}.part.npz")
        save_cached_state(str(part), self.sums, {"sample_size": self.loading["sample_size"]})
        os.replace(part, self.file)


def _statistic(job: Job, name: str, texts: Sequence[str]) -> Statistic:
    """Run EasyEdit's ``layer_stats`` up to the point where it would compute. Return what it has."""
    from easyeditor.models.rome import layer_stats as module

    found: list[Statistic] = []

    class Seen(Exception):
        pass

    def tally(sums: Any, dataset: Any, cache: Path, **loading: Any) -> None:
        found.append(Statistic(name, Path(cache), sums, dataset, loading))
        raise Seen

    with (
        _replaced(module, "load_dataset", lambda *_, **__: {"train": [{"text": t} for t in texts]}),
        _replaced(module, "tally", tally),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(Seen),
        _explained(),
    ):
        module.layer_stats(
            job.model,
            job.tokenizer,
            name,
            job.hparams.stats_dir,
            job.hparams.mom2_dataset,
            to_collect=["mom2"],
            sample_size=job.hparams.mom2_n_samples,
            precision=job.hparams.mom2_dtype,
            hparams=job.hparams,
        )
    return found[0]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, NotImplementedError) as error:
        raise ConfigError(
            "EasyEdit has no statistics for these settings; look at mom2_dataset, mom2_dtype and "
            f"whether the model's configuration says how long a text may be: {error!r}"
        ) from error


def _groups(statistic: Statistic, first: int) -> Iterator[Any]:
    """Yield the groups of EasyEdit's own loader over the texts, starting at group ``first``."""
    import torch
    from easyeditor.util.runningstats import tally

    loading = {**statistic.loading, "pin_memory": torch.cuda.is_available()}
    with _replaced_item(os.environ, "TOKENIZERS_PARALLELISM", "false"):  # its loader forks
        with contextlib.redirect_stdout(io.StringIO()):
            loader = tally(statistic.sums, statistic.dataset, cache=None, **loading)
        yield from itertools.islice(loader, first, None)


def _add(job: Job, todo: Sequence[Statistic], group: Sequence[dict[str, Any]]) -> None:
    """Add the modules' inputs, for the batches of a group, to the modules' sums."""
    import torch
    from easyeditor.models.rome.tok_dataset import flatten_masked_batch
    from easyeditor.util.nethook import TraceDict

    # Sums in half precision would soon be infinite, and EasyEdit inverts no such matrix. It reads
    # a file of any precision under the name of another.
    dtype = torch.promote_types(getattr(torch, job.hparams.mom2_dtype), torch.float32)
    device = input_device(job.model)
    names = [statistic.module for statistic in todo]
    for batch in itertools.chain.from_iterable(map(_pieces, group)):
        on_device = {name: value.contiguous().to(device) for name, value in batch.items()}
        with (
            torch.no_grad(),
            TraceDict(job.model, names, retain_output=False, retain_input=True, stop=True) as seen,
        ):
            job.model(**on_device)
        for statistic in todo:
            given = seen[statistic.module].input
            mask = on_device["attention_mask"].to(given.device)
            statistic.sums.add(flatten_masked_batch(given, mask).to(dtype))


def _pieces(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Split a batch into parts of about TOKENS_PER_FORWARD, each as wide as its longest text.

    EasyEdit sorts the texts of a batch, the longest first, and pads them on the right.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    row = 0
    while row < len(lengths):
        rows = max(1, TOKENS_PER_FORWARD // max(1, lengths[row]))
        yield {name: value[row : row + rows, : lengths[row]] for name, value in batch.items()}
        row += rows


class _Unfinished:
    """The sums of an unfinished run, in a file that a later run finds again."""

    def __init__(self, job: Job, texts: Sequence[str]) -> None:
        settings = (
            job.module_names(),
            str(getattr(job.model.config, "_name_or_path", "")),
            job.hparams.mom2_dataset,
            job.hparams.mom2_n_samples,
            job.hparams.mom2_dtype,
            str(next(job.model.parameters()).dtype),
            getattr(job.tokenizer, "model_max_length", None),
        )
        digest = hashlib.sha256(json.dumps([settings, list(texts)]).encode()).hexdigest()[:12]
        self._file = Path(job.hparams.stats_dir) / f".unfinished-{digest}.npz"
        self._device = input_device(job.model)
        self._saved = time.monotonic()
        self._pause = SECONDS_BETWEEN_SAVES

    def load(self, todo: Sequence[Statistic]) -> int:
        """Put the stored sums into ``todo``. Return how many groups they include."""
        if not self._file.exists():
            return 0
        try:
            return self._load(todo)
        except Exception:  # as in `statistic_fault`
            return 0  # incomplete, for example because of a full disk

    def _load(self, todo: Sequence[Statistic]) -> int:
        import numpy as np

        with np.load(self._file) as kept:
            names = {key.partition("|")[0] for key in kept.files}
            if not {statistic.module for statistic in todo} <= names:
                return 0
            for statistic in todo:
                prefix = f"{statistic.module}|"
                statistic.sums.load_state_dict(
                    {
                        key.removeprefix(prefix): kept[key]
                        for key in kept.files
                        if key.startswith(prefix)
                    }
                )
                statistic.sums.to_(self._device)
            return int(kept["groups"])

    def save(self, todo: Sequence[Statistic], groups: int) -> None:
        """Store the sums from time to time. Writing should cost little compared to computing."""
        import numpy as np

        started = time.monotonic()
        if started - self._saved < self._pause or not all(s.sums.mom2.count for s in todo):
            return
        state = {
            f"{statistic.module}|{key}": value
            for statistic in todo
            for key, value in statistic.sums.state_dict().items()
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f"{self._file.stem}.{os.getpid()}.part.npz")
        np.savez(part, groups=groups, **state)
        os.replace(part, self._file)
        self._saved = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_SAVES, 20 * (self._saved - started))

    def discard(self) -> None:
        """Delete the file, because the run is finished."""
        self._file.unlink(missing_ok=True)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextlib.contextmanager
def _replaced_item(mapping: MutableMapping[str, str], key: str, value: str) -> Iterator[None]:
    original = mapping.get(key)
    mapping[key] = value
    try:
        yield
    finally:
        if original is None:
            del mapping[key]
        else:
            mapping[key] = original
