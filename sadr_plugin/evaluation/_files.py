"""The files of an evaluation: lines of JSON that survive the end of the process or the machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ..errors import DataError
from ._results import Checkpoint, Result

Line = TypeVar("Line")


def read_results(file: Path) -> list[Result]:
    """Read the results in a file. An incomplete last line is ignored.

    Raises:
        DataError: the file cannot be read, or another line is not a result.
    """
    return _read_lines(file, Result.from_line)


def read_checkpoints(file: Path) -> list[Checkpoint]:
    """Read the checkpoints in a file, without their saved tensors.

    An incomplete last line is ignored.

    Raises:
        DataError: the file cannot be read, or another line is not a checkpoint.
    """
    return _read_lines(file, Checkpoint.from_line)


def append_lines(file: Path, items: Sequence[Result | Checkpoint]) -> None:
    """Append items to a file, and wait until they are on the disk."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(map(_line_of, items))
        stream.flush()
        os.fsync(stream.fileno())


def rewrite(file: Path, items: Sequence[Result | Checkpoint]) -> None:
    """Replace all lines of a file at once."""
    with replacing(file) as part:
        part.write_text("".join(map(_line_of, items)), encoding="utf-8")


def has_content(file: Path) -> bool:
    """Whether a file exists and is not empty."""
    return file.exists() and file.stat().st_size > 0


def drop_half_line(file: Path) -> None:
    """Remove an incomplete last line. No other process may write to the file.

    Raises:
        DataError: the file cannot be read.
    """
    content = _read(file)
    whole, newline, half = content.rpartition(b"\n")
    if half:
        os.truncate(file, len(whole) + len(newline))


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary file to write. After the block it replaces ``file``.

    It is synced to the disk before.
    """
    part = file.with_name(f"{file.name}.part")
    yield part
    _sync(part, os.O_RDWR)
    part.replace(file)
    if os.name != "nt":  # Windows cannot open a folder
        _sync(file.parent, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line_of(item: Result | Checkpoint) -> str:
    """Return an item as a line of its file, without what is stored in other files."""
    names = [f.name for f in fields(item) if f.name != "saved"]
    return json.dumps({name: getattr(item, name) for name in names}) + "\n"


def _read(file: Path) -> bytes:
    """Return the content of a file; nothing if there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _read_lines(file: Path, from_line: Callable[[bytes], Line]) -> list[Line]:
    whole, _, _ = _read(file).rpartition(b"\n")
    found = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found.append(from_line(line))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{file}: line {number} is no result: {error}") from None
    return found
