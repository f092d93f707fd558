"""Files of records, as a JSON list or as JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ._formats import parse, weighable
from ._records import Record


@dataclass(frozen=True)
class Data:
    """The content of a file.

    Attributes:
        records: the good records, in the order of the file.
        skipped: the error of each other record, one line each.
        not_asked: for each unknown group of questions, the number of records that have it.
    """

    records: list[Record]
    skipped: list[str]
    not_asked: dict[str, int] = field(default_factory=dict)


BUILTIN = Path(__file__).with_name("builtin.json")
"""Edits of facts that SmolLM2-135M knows, with paraphrases, neighbours and relations.

The model also knows the neighbours and relations: it finds the right answer at least twice as
likely as the edit's new object.
"""


def load(file: Path, skip_bad: bool = False) -> Data:
    """Read the records of a JSON list or a JSON Lines file.

    Args:
        file: the file, UTF-8.
        skip_bad: whether to list bad records in `Data.skipped`, instead of stopping at the first.

    Raises:
        DataError: the file cannot be read, a record is malformed, or there is no usable record. The
            message names the file, and if possible the record's number (from 0) and field.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    records: dict[str, Record] = {}
    skipped: list[str] = []
    not_asked: Counter[str] = Counter()
    for number, item in _items(content):
        try:
            if isinstance(item, _Broken):
                raise item
            parsed = parse(item)
            record = weighable(parsed.record(str(number)))
            if record.key in records:
                raise ValueError(f"case_id: {record.key} is an earlier record's")
            records[record.key] = record
            not_asked.update(parsed.groups_not_asked())
        except ValueError as error:
            wrong = f"record {number}: {error}"
            if not skip_bad:
                raise DataError(f"{file}: {wrong}") from None
            skipped.append(wrong)
    if not records:
        raise DataError(f"{file}: holds no usable record" + "".join(f"; {s}" for s in skipped[:3]))
    return Data(list(records.values()), skipped, dict(not_asked))


class _Broken(ValueError):
    """Text that is not JSON."""


def _items(content: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each item of a JSON list or of JSON Lines.

    Text that is not JSON becomes a `_Broken`.
    """
    decoder = json.JSONDecoder()
    place = _skip(content, 0, "")
    listed = content[place : place + 1] == "["
    if listed:
        place += 1
    number = 0
    while True:
        place = _skip(content, place, "," if listed else "")
        if place >= len(content):
            if listed:
                yield number, _Broken("is no JSON: the list does not end")
            return
        if listed and content[place] == "]":
            return
        try:
            item, place = decoder.raw_decode(content, place)
        except (ValueError, RecursionError) as error:
            yield number, _Broken(f"is no JSON: {error}")
            end = content.find("\n", place)
            if listed or end < 0:
                return
            place = end  # after a bad line of JSON Lines, the next line may be good
        else:
            yield number, item
        number += 1


def _skip(content: str, place: int, separators: str) -> int:
    while place < len(content) and (content[place].isspace() or content[place] in separators):
        place += 1
    return place
