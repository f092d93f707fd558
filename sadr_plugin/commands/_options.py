"""The options that several commands share."""

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
    int | None,
    typer.Option(help="Number of records, chosen with the seed. [default: all]", min=1),
]
Resume = Annotated[bool, typer.Option(help="Continue where an earlier run stopped.")]
SkipBad = Annotated[
    bool,
    typer.Option(
        help="Skip and count bad records, and records on which the editor itself fails. Otherwise "
        "they end the run."
    ),
]
Engine = Annotated[
    Engines, typer.Option(help="Run in this process, or on the workers of a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="With --engine ray: the number of workers. [default: one for each GPU, or one]", min=1
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Number of torch's threads. With --engine ray: in each worker.", min=1),
]
DType = Annotated[
    Types | None,
    typer.Option(help="Type of the model's weights. [default: as in the hparams file (fp16)]"),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Matmul = Annotated[
    Precision,
    typer.Option(
        help="Precision of float32 matrix products. high and medium are faster if the processor "
        "has TF32 or bfloat16."
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write the results as an HTML page.", show_default=False),
]
SvgFolder = Annotated[
    Path | None,
    typer.Option("--svg", help="Write the page's charts as SVG to a folder.", show_default=False),
]
PngFolder = Annotated[
    Path | None,
    typer.Option("--png", help="Write the page's charts as PNG to a folder.", show_default=False),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write the results as data to a file.", show_default=False),
]


def expect_only_subject(option: str, prompt: str) -> None:
    """Check that a prompt has no other braces than ``{}``, the place of the subject.

    Raises:
        ConfigError: it has others. The message names the option.
    """
    from ..evaluation._fields import only_braces

    try:
        only_braces(prompt)
    except ValueError as error:
        raise ConfigError(f"{option}: {str(error).removeprefix('prompt: ')}") from None


def split_fact(option: str, text: str) -> tuple[str, str]:
    """Split ``"PROMPT=ANSWER"`` into the prompt and the answer.

    Raises:
        ConfigError: the text has another form. The message names the option.
    """
    prompt, _, answer = text.rpartition("=")
    if not prompt.strip() or not answer.strip():
        raise ConfigError(f'{option}: expected "PROMPT=ANSWER", got {text!r}')
    return prompt.strip(), answer.strip()


def layer_range(option: str, text: str) -> tuple[int, int]:
    """Return the first and the last layer of a text such as ``"6-15"`` or ``"6"``.

    Raises:
        ConfigError: the text has another form. The message names the option.
    """
    first, dash, last = text.partition("-")
    try:
        found = int(first), int(last if dash else first)
    except ValueError:
        raise ConfigError(f"{option}: expected layers such as 6-15, got {text!r}") from None
    if found[0] > found[1]:
        raise ConfigError(f"{option}: {text!r} ends before it begins")
    return found
