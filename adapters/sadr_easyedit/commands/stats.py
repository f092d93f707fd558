"""``sadr stats``: the layer statistics an editor needs, computed from any text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sadr_plugin.commands._options import JsonFile
from sadr_plugin.commands._output import Output, write_json


def stats(
    hparams_file: Annotated[
        Path, typer.Argument(metavar="HPARAMS.yaml", help="The hparams of the edits to come.")
    ],
    corpus: Annotated[
        list[str],
        typer.Option(
            help='A UTF-8 text file, repeatable; "self": text drawn from the model; "python": '
            "Python's own manual, some 120,000 tokens."
        ),
    ],
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens to draw with --corpus self.", min=1)
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="These layers in place of the file's, such as 3-9; to try them with sadr tune.",
            show_default=False,
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Compute the layer statistics that an editor needs.

    They are written where EasyEdit looks for them.
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
    from ..statistics import Job, compute, files, missing

    Output(json=json).check()
    import_text_only()
    with enabled():
        hparams = load_hparams(hparams_file)
    if layers is not None:
        first, last = layer_range("--layers", layers)
        hparams.layers = list(range(first, last + 1))
    if corpus not in (["python"], ["self"]):
        read_texts([Path(file) for file in corpus])  # wrong ones are to be known at once
    job = Job(*load_model(hparams), hparams)
    console = Console(file=sys.stdout)
    with Progress(console=console) as progress:
        texts = texts_of(corpus, job, progress, tokens) if missing(job) else []
        computed = compute(job, texts, progress)
    if json is not None:
        modules = {name: str(file) for name, file in files(job).items()}
        write_json(json, {"files": modules, "computed": computed})
    for name in job.module_names():
        console.print(f"{name}: {'computed' if name in computed else 'already there'}")
    console.print(f"in {Path(hparams.stats_dir).absolute()}")
