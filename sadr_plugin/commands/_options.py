"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError


class Engines(str, Enum):
    """Where edits are evaluated."""

    local = "local"
    ray = "ray"


class Types(str, Enum):
    """Types of a model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Precision(str, Enum):
    """`torch.set_float32_matmul_precision`."""

    highest = "highest"
    high = "high"
    medium = "medium"


HparamsFile = Annotated[
    Path, typer.Argument(metavar="HPARAMS.yaml", help="The editor and its settings.")
]
Limit = Annotated[
    int | None, typer.Option(help="How many records, chosen by the seed; else all.", min=1)
]
Resume = Annotated[bool, typer.Option(help="Go on where an earlier run stopped.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        help="Skip and count bad records, and those on which the editor itself fails; else "
        "they end the run."
    ),
]
Engine = Annotated[Engines, typer.Option(help="Here, or on the workers of a Ray cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="With ray: how many; else one for each GPU, or one.", min=1)
]
Threads = Annotated[
    int | None, typer.Option(help="Torch's threads, of each worker with ray.", min=1)
]
DType = Annotated[
    Types | None,
    typer.Option(help="Type of the model's weights; else as the hparams say (fp16)."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Matmul = Annotated[
    Precision,
    typer.Option(
        help="Precision of float32 matrix products; high and medium are faster where the "
        "processor has TF32 or bfloat16."
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write a page to look at: one HTML file.", show_default=False),
]
SvgFolder = Annotated[
    Path | None,
    typer.Option("--svg", help="Write its charts into this folder, as SVG.", show_default=False),
]
PngFolder = Annotated[
    Path | None,
    typer.Option("--png", help="Write its charts into this folder, as PNG.", show_default=False),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the same as data to this file.", show_default=False),
]


def split_fact(option: str, text: str) -> tuple[str, str]:
    """The prompt and the answer of ``"PROMPT=ANSWER"``.

    Raises `ConfigError`, naming the option, for anything else.
    """
    prompt, _, answer = text.rpartition("=")
    if not prompt.strip() or not answer.strip():
        raise ConfigError(f'{option}: expected "PROMPT=ANSWER", got {text!r}')
    return prompt.strip(), answer.strip()


def layer_range(option: str, text: str) -> tuple[int, int]:
    """The first and the last of ``"6-15"``, or of ``"6"``.

    Raises `ConfigError`, naming the option, for anything else.
    """
    first, dash, last = text.partition("-")
    try:
        found = int(first), int(last if dash else first)
    except ValueError:
        raise ConfigError(f"{option}: expected layers such as 6-15, got {text!r}") from None
    if found[0] > found[1]:
        raise ConfigError(f"{option}: {text!r} ends before it begins")
    return found
