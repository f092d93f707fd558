"""An evaluation's files: lines of JSON that outlive whatever ends the process, or the machine."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ..errors import ChangedModelError, DataError
from ._results import Checkpoint, Result

Line = TypeVar("Line")


def read_results(file: Path) -> list[Result]:
    """The results in a file, without a last line that was cut off.

    Raises `DataError` for any other line that is no result.
    """
    return _read_lines(file, Result.from_line)


def read_checkpoints(file: Path) -> list[Checkpoint]:
    """The checkpoints in a file, without what is saved elsewhere; otherwise as `read_results`."""
    return _read_lines(file, Checkpoint.from_line)


def append_lines(file: Path, items: Sequence[Result | Checkpoint]) -> None:
    """Write items at a file's end, and see that they are on the disk."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(map(_line_of, items))
        stream.flush()
        os.fsync(stream.fileno())


def rewrite(file: Path, items: Sequence[Result | Checkpoint]) -> None:
    """Put other lines in place of a file's, all or none."""
    with replacing(file) as part:
        part.write_text("".join(map(_line_of, items)), encoding="utf-8")


def drop_half_line(file: Path) -> None:
    """Take away a last line that was cut off; for a file that no other process writes to."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole, newline, half = content.rpartition(b"\n")
    if half:
        os.truncate(file, len(whole) + len(newline))


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to write in the block; then it takes the other's place, once it is on the disk."""
    part = file.with_name(f"{file.name}.part")
    yield part
    _sync(part, os.O_RDWR)
    part.replace(file)
    if os.name != "nt":  # a folder cannot be opened there
        _sync(file.parent, os.O_RDONLY)


@contextlib.contextmanager
def put_aside(file: Path) -> Iterator[None]:
    """Rename a file where the model is found to be changed in the end: what was measured with it is
    not to be trusted, and no later run goes on with it.

    Raises:
        ChangedModelError: with the file's new name.
    """
    try:
        yield
    except ChangedModelError as error:
        kept = file.replace(file.with_name(f"untrusted-{file.name}"))
        raise ChangedModelError(f"{error}. What was measured is in {kept}") from error


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line_of(item: Result | Checkpoint) -> str:
    """An item as a line of its file, without what is kept elsewhere."""
    names = [f.name for f in fields(item) if f.name != "saved"]
    return json.dumps({name: getattr(item, name) for name in names}) + "\n"


def _read_lines(file: Path, from_line: Callable[[bytes], Line]) -> list[Line]:
    if not file.exists():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    found = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found.append(from_line(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: line {number} is no result: {error}") from None
    return found
