"""``sadr stats``: the second moments that ROME, MEMIT, PMET and AlphaEdit need, offline.

EasyEdit computes them from Wikipedia, which it fetches from a hub. Here its own function and its
own running statistics do the work, into its own files, on any text at hand.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import textwrap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

TOKENS_PER_WIDTH = 10
"""A second moment of width d has rank d at most after d tokens; ten times that is the least at
which its inverse means something."""

LONGEST_TEXT = 2000
"""Characters of a text at the most, some 500 tokens."""

OPENINGS = ("The", "A", "In", "It", "He", "She", "They", "When", "There", "Many", "On", "For")
"""How texts sampled from the model itself begin."""


@dataclass(frozen=True)
class Job:
    """What to compute: one second moment for each module's input.

    Attributes:
        model: the model that will be edited.
        tokenizer: its tokenizer.
        hparams: says where EasyEdit will look and what it will ask for.
    """

    model: nn.Module
    tokenizer: Any
    hparams: Any

    def module_names(self) -> list[str]:
        """The modules whose inputs count; PMET rewrites two in each layer."""
        templates = getattr(self.hparams, "rewrite_module_tmps", None)
        templates = templates or [self.hparams.rewrite_module_tmp]
        return [template.format(layer) for layer in self.hparams.layers for template in templates]

    def tokens_needed(self) -> int:
        """The least number of tokens for the widest of the modules.

        Raises `ConfigError` for a module the model does not have.
        """
        widest: int = max(self._width(name) for name in self.module_names())
        return TOKENS_PER_WIDTH * widest

    def tokens_in(self, texts: Sequence[str]) -> int:
        """How many tokens of ``texts`` EasyEdit would use: it takes mom2_n_samples of them."""
        sample = min(len(texts), self.hparams.mom2_n_samples)
        encoded = self.tokenizer(list(texts))["input_ids"]
        longest = getattr(self.model.config, "max_position_embeddings", None) or 2**31
        total = sum(min(len(ids), longest) for ids in encoded)
        return int(total * sample / max(len(texts), 1))

    def check(self, texts: Sequence[str]) -> None:
        """Raise `ConfigError`, saying how much is needed, if ``texts`` are too little."""
        found, needed = self.tokens_in(texts), self.tokens_needed()
        if found < needed:
            raise ConfigError(
                f"--corpus: {found:,} tokens are too few for a layer of width "
                f"{needed // TOKENS_PER_WIDTH:,}; at least {needed:,} are needed "
                f"({TOKENS_PER_WIDTH} for each dimension; mom2_n_samples is "
                f"{self.hparams.mom2_n_samples:,} texts)"
            )

    def _width(self, name: str) -> int:
        try:
            return int(max(self.model.get_submodule(name).weight.shape))  # type: ignore[arg-type]
        except AttributeError as error:
            raise ConfigError(f"rewrite_module_tmp: the model has no module {name!r}") from error


def compute(job: Job, texts: Sequence[str], progress: Progress) -> list[str]:
    """Compute what is not there yet; give the names of the modules that were.

    A module's file appears only once it is whole, so that an interrupted run goes on where it
    stopped.
    """
    done = [name for name in job.module_names() if _load_or_compute(job, name, None, None)]
    todo = [name for name in job.module_names() if name not in done]
    if todo:
        job.check(texts)
    batches = -(-min(len(texts), job.hparams.mom2_n_samples) // 100)
    task = progress.add_task("layer statistics", total=max(1, batches * len(todo)))
    for name in todo:

        def ticking(loader: Any, total: int | None = None) -> Iterator[Any]:
            for batch in loader:
                yield batch
                progress.advance(task)

        _load_or_compute(job, name, texts, ticking)
    progress.update(task, completed=max(1, batches * len(todo)))
    return todo


class _NotThere(Exception):
    pass


def _load_or_compute(job: Job, name: str, texts: Sequence[str] | None, progress: Any) -> bool:
    """Have EasyEdit's ``layer_stats`` load the statistic, or compute it if there are ``texts``.

    Gives False if it is not there and there are none.
    """
    import torch
    from easyeditor.models.rome import layer_stats as module

    from sadr_plugin.devices import cuda_or_cpu

    def corpus(*_: object, **__: object) -> dict[str, Any]:
        if texts is None:
            raise _NotThere
        return {"train": [{"text": text} for text in texts]}

    def run(stats_dir: str) -> None:
        with (
            _replaced(module, "load_dataset", corpus),
            _replaced_item(os.environ, "TOKENIZERS_PARALLELISM", "false"),  # its loader forks
            contextlib.redirect_stdout(io.StringIO()),
            cuda_or_cpu(),
            torch.no_grad(),
        ):
            module.layer_stats(
                job.model,
                job.tokenizer,
                name,
                stats_dir,
                job.hparams.mom2_dataset,
                to_collect=["mom2"],
                sample_size=job.hparams.mom2_n_samples,
                precision=job.hparams.mom2_dtype,
                hparams=job.hparams,
                batch_tokens=None,
                progress=progress or (lambda loader, total=None: loader),
            )

    final = Path(job.hparams.stats_dir)
    if texts is None:
        try:
            run(str(final))
        except _NotThere:
            return False
        return True
    final.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final, prefix=".unfinished-") as scratch:
        run(scratch)
        for file in Path(scratch).rglob("*.npz"):
            place = final / file.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    return True


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


def read_texts(files: Sequence[Path]) -> list[str]:
    """The paragraphs of UTF-8 text files; a line is one where there are no blank lines.

    Long ones are cut: attention's cost grows with the square of a text's length, and a second
    moment gains nothing by it.

    Raises `ConfigError`, naming the file, for what cannot be read.
    """
    texts: list[str] = []
    for file in files:
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--corpus: {file} cannot be read as UTF-8 text: {error}") from None
        separator = "\n\n" if "\n\n" in content else "\n"
        for part in content.split(separator):
            texts += textwrap.wrap(part, LONGEST_TEXT, replace_whitespace=False)
    return texts


def sample_texts(job: Job, tokens: int, progress: Progress, seed: int = 0) -> list[str]:
    """Texts of some ``tokens`` tokens in all, drawn from the model itself."""
    import torch

    length, rows = 128, 64
    task = progress.add_task("text sampled from the model", total=tokens)
    texts: list[str] = []
    drawn = 0
    # The tokenizer is the user's: its padding side goes back to what it was.
    side, job.tokenizer.padding_side = job.tokenizer.padding_side, "left"
    device = next(job.model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            while drawn < tokens:
                openings = [OPENINGS[(drawn + row) % len(OPENINGS)] for row in range(rows)]
                batch = job.tokenizer(openings, padding=True, return_tensors="pt").to(device)
                output = job.model.generate(  # type: ignore[operator]
                    **batch,
                    do_sample=True,
                    top_p=0.95,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    pad_token_id=job.tokenizer.pad_token_id,
                )
                texts += job.tokenizer.batch_decode(output, skip_special_tokens=True)
                drawn += output.numel()
                progress.update(task, completed=min(drawn, tokens))
    finally:
        job.tokenizer.padding_side = side
    return texts


def load_hparams(file: Path) -> Any:
    """The hparams object of any editor SADR attaches to, by the file's ``alg_name``.

    Raises `ConfigError`, naming the file, if it cannot be read or names no such editor.
    """
    import importlib

    import yaml

    from .editors import EDIT_POINTS

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from None
    name = content.get("alg_name") if isinstance(content, dict) else None
    classes = {point.editor: point.hparams for point in EDIT_POINTS}
    if name not in classes:
        raise ConfigError(f"{file}: alg_name is {name!r}, not one of {', '.join(classes)}")
    module_name, _, class_name = classes[name].partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, class_name).from_hparams(str(file))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{file}: the installed EasyEdit has no {name} ({error})") from None
    except TypeError as error:
        raise ConfigError(f"{file}: {error}") from None


def load_model(hparams: Any) -> tuple[nn.Module, Any]:
    """The model and tokenizer that ``model_name`` names, in float32.

    Raises `ConfigError` if there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = hparams.model_name
    try:
        model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name: {name!r} cannot be loaded: {error}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), tokenizer


def stats(
    hparams_file: Annotated[
        Path, typer.Argument(metavar="HPARAMS.yaml", help="The hparams of the edits to come.")
    ],
    corpus: Annotated[
        list[str],
        typer.Option(help='A UTF-8 text file, repeatable; or "self": text drawn from the model.'),
    ],
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens to draw with --corpus self.", min=1)
    ] = None,
) -> None:
    """Compute the layer statistics an editor needs, where EasyEdit looks for them."""
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from sadr_plugin import enabled

    from .environment import import_text_only

    import_text_only()
    with enabled():
        hparams = load_hparams(hparams_file)
    texts = [] if corpus == ["self"] else read_texts([Path(file) for file in corpus])
    job = Job(*load_model(hparams), hparams)
    console = Console(file=sys.stdout)
    with Progress(console=console) as progress:
        missing = [n for n in job.module_names() if not _load_or_compute(job, n, None, None)]
        if missing and corpus == ["self"]:
            texts = sample_texts(job, tokens or 2 * job.tokens_needed(), progress)
        computed = compute(job, texts, progress)
    for name in job.module_names():
        console.print(f"{name}: {'computed' if name in computed else 'already there'}")
    console.print(f"in {Path(hparams.stats_dir).absolute()}")
