"""What the run of a command needs: records, an editor with its model, and where it runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import code_sha256
from ..adapter import EditorOptions, HparamsSummary
from ..errors import ConfigError
from ..plugins import loaded_adapters, plugin_manager
from ._hparams import summary_of
from ._options import Engines, Precision
from ._run_folder import packages
from ._verdict import expect_no_fault
from .terminal import silence

if TYPE_CHECKING:
    from ..evaluation import Data, Editor, Engine, Evaluator, Record


def read_summary(hparams_file: Path) -> HparamsSummary:
    """Return what the hparams file says, after a check of it against the toolkit and the model.

    Raises:
        ConfigError: the file does not exist, or an edit with it would fail.
    """
    if not hparams_file.is_file():
        raise ConfigError(f"there is no file {hparams_file}")
    summary = summary_of(hparams_file)
    expect_no_fault(hparams_file, summary)
    return summary


@dataclass(frozen=True)
class Chosen:
    """The records that ``--data``, ``--limit`` and ``--seed`` choose.

    Attributes:
        file: the file of the records.
        found: everything in the file.
        records: the chosen records.
    """

    file: Path
    found: Data
    records: list[Record]

    @classmethod
    def by(cls, data: str, limit: int | None, seed: int, skip_bad: bool) -> Chosen:
        """Choose records by the options of the same names.

        Raises:
            DataError: the file cannot be used.
        """
        from ..evaluation import BUILTIN, load, sample

        file = BUILTIN if data == "builtin" else Path(data)
        found = load(file, skip_bad)
        return cls(file, found, sample(found.records, limit, seed))


def about_run(
    mode: str, summary: HparamsSummary, chosen: Chosen, options: EditorOptions, place: Place
) -> dict[str, Any]:
    """Return what the numbers of any run depend on, for its ``run.json``."""
    return {
        "hparams": as_json(summary.settings),
        "data": chosen.file.name,
        "data_sha256": hashlib.sha256(chosen.file.read_bytes()).hexdigest(),
        "records": [record.key for record in chosen.records],
        "seed": options.seed,
        "matmul": place.matmul.value,
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
        "mode": mode,
        "versions": packages(),
        "toolkit_sha256": _toolkit_sha256(summary),
        "plugins": _plugins(),
    }


def _toolkit_sha256(summary: HparamsSummary) -> str | None:
    """Return the hash of the toolkit's code. A version does not tell the code of a checkout."""
    return code_sha256(re.split("[.:]", summary.hparams)[0]) if summary.hparams else None


def _plugins() -> dict[str, str | None]:
    """Return the installed plugins in force, with their distributions and versions."""
    return {
        name: f"{plugin.dist.metadata['Name']} {plugin.dist.version}" if plugin.dist else None
        for name, plugin in sorted(loaded_adapters().items())
    }


def make_evaluator(
    hparams_file: Path,
    options: EditorOptions,
    evaluator: Callable[[Editor], Evaluator],
) -> Evaluator:
    """Make an evaluator with the editor and the model that the hparams file names.

    SADR has to be enabled.
    """
    return evaluator(make_editor(hparams_file, options))


def make_editor(hparams_file: Path, options: EditorOptions) -> Editor:
    """Load the editor and the model that the hparams file names.

    Raises:
        ConfigError: no adapter offers an editor for evaluations with this file.
    """
    from ..evaluation import Editor

    with silence():
        editor: Editor | None = plugin_manager().hook.sadr_editor(
            file=hparams_file, options=options
        )
    if editor is None:
        raise ConfigError(
            f"{hparams_file}: its adapter does not say how to evaluate its editor (sadr_editor)"
        )
    if not isinstance(editor, Editor):
        raise ConfigError(
            f"{hparams_file}: sadr_editor returned {type(editor).__name__}, not an Editor"
        )
    missing = [name for name in Editor.__annotations__ if not hasattr(editor, name)]
    if missing or isinstance(editor.weights, str):
        lacks = f"lacks {', '.join(missing)}" if missing else "its weights are a text, not a list"
        raise ConfigError(f"{hparams_file}: {type(editor).__name__} of sadr_editor: {lacks}")
    return editor


@dataclass(frozen=True)
class Place:
    """Where edits are evaluated, as in the options of the same names."""

    engine: Engines = Engines.local
    workers: int | None = None
    threads: int | None = None
    matmul: Precision = Precision.highest

    def cluster(self, make: Callable[[], Evaluator], arms: Sequence[str]) -> Engine | None:
        """Return the engine with workers if the options ask for it, or None.

        Raises:
            ConfigError: ``--workers`` is given without ``--engine ray``.
        """
        if self.engine is Engines.ray:
            from ..evaluation import RayEngine

            make = partial(_on_worker, make, self.matmul)
            return RayEngine(make, arms, self.workers, self.threads)
        if self.workers is not None:
            raise ConfigError("--workers: works only with --engine ray")
        return None

    @contextlib.contextmanager
    def torch_settings(self) -> Iterator[None]:
        """Set torch's precision of matrix products and its threads for a ``with`` block."""
        import torch

        before = torch.get_float32_matmul_precision(), torch.get_num_threads()
        torch.set_float32_matmul_precision(self.matmul.value)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.set_num_threads(before[1])


def _on_worker(make: Callable[[], Evaluator], matmul: Precision) -> Evaluator:
    """Make the evaluator in a worker process, which does nothing else."""
    import torch

    from .. import enable

    torch.set_float32_matmul_precision(matmul.value)
    enable()
    return make()


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as data for JSON."""
    return {name: json.loads(json.dumps(value, default=str)) for name, value in values.items()}
