"""``sadr stats``: compute the layer statistics that an editor needs, from any text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sadr_plugin import EditorOptions
from sadr_plugin.commands._options import DType, JsonFile, TrustRemoteCode
from sadr_plugin.commands._output import Output, write_json
from sadr_plugin.errors import ConfigError


def stats(
    hparams_file: Annotated[
        Path, typer.Argument(metavar="HPARAMS.yaml", help="The hparams file of the planned edits.")
    ],
    corpus: Annotated[
        list[str],
        typer.Option(
            help='A UTF-8 text file (repeatable), or "self" for text sampled from the model, or '
            '"python" for Python\'s own manual (about 120,000 tokens).'
        ),
    ],
    tokens: Annotated[
        int | None, typer.Option(help="Number of tokens to sample with --corpus self.", min=1)
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to use instead of the file's, such as 3-9. sadr tune can then try them.",
            show_default=False,
        ),
    ] = None,
    dtype: DType = None,
    trust_remote_code: TrustRemoteCode = False,
    json: JsonFile = None,
) -> None:
    """Compute the layer statistics that an editor needs.

    The files are written where EasyEdit looks for them.
    """
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from sadr_plugin import enabled
    from sadr_plugin.commands._options import layer_range

    from ..corpus import read_texts, texts_of
    from ..environment import import_text_only
    from ..hparams_files import load_hparams
    from ..loading import load_model
    from ..statistics import Job, compute, damaged, files, missing

    Output(json=json).check()
    if tokens is not None and corpus != ["self"]:
        raise ConfigError("--tokens: for --corpus self only; other text is taken as a whole")
    import_text_only()
    with enabled():
        hparams = load_hparams(hparams_file)
    if layers is not None:
        first, last = layer_range("--layers", layers)
        hparams.layers = list(range(first, last + 1))
    if corpus not in (["python"], ["self"]):
        read_texts([Path(file) for file in corpus])  # report a bad file before the model loads
    options = EditorOptions(dtype=dtype and dtype.value, trust_remote_code=trust_remote_code)
    job = Job(*load_model(hparams, options=options), hparams)
    console = Console(file=sys.stdout)
    spoiled = damaged(job)
    for name, fault in spoiled.items():
        console.print(f"{name}: {fault}; the old file is set aside", markup=False)
    with Progress(console=console) as progress:
        needed = missing(job) or spoiled
        texts = texts_of(corpus, job, progress, tokens) if needed else []
        computed = compute(job, texts, progress)
    if json is not None:
        modules = {name: str(file) for name, file in files(job).items()}
        write_json(json, {"files": modules, "computed": computed})
    for name in job.module_names():
        console.print(
            f"{name}: {'computed' if name in computed else 'already there'}", markup=False
        )
    console.print(f"in {Path(hparams.stats_dir).absolute()}", markup=False)
