"""Files of records, as a JSON list or as JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ._formats import is_record, parse, weighable
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

    A JSON object may hold the list under any key, or the records under an index. A record without
    a number of its own is named by its place, from 0, with ``#`` before it if another record has
    this number.

    Args:
        file: the file, UTF-8, with a byte order mark or without.
        skip_bad: whether to list bad records in `Data.skipped`, instead of stopping at the first.

    Raises:
        DataError: the file cannot be read, a record is malformed, or there is no usable record. The
            message names the file, and if possible the record's number (from 0) and field.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    records: dict[str, Record] = {}
    skipped: list[str] = []
    not_asked: Counter[str] = Counter()
    items = _unwrapped(list(_items(content)), file)
    own_numbers = {str(item.get("case_id")) for item in items if isinstance(item, dict)}
    for number, item in enumerate(items):
        try:
            if isinstance(item, _Broken):
                raise item
            parsed = parse(item)
            place = f"#{number}" if str(number) in own_numbers else str(number)
            record = weighable(parsed.record(place))
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


def _unwrapped(items: list[Any], file: Path) -> list[Any]:
    """Return the records of a file of which the only item may be an object around them.

    Raises:
        DataError: the object is neither a record, nor around records.
    """
    if len(items) != 1 or not isinstance(items[0], dict) or is_record(items[0]):
        return items
    (around,) = items
    lists = {
        key: value
        for key, value in around.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    }
    if len(lists) == 1:
        return next(iter(lists.values()))
    if lists:
        raise DataError(
            f"{file}: has several lists of objects, under {', '.join(map(repr, lists))}; put the "
            "records into a file of their own"
        )
    inner = list(around.values())
    if inner and all(isinstance(value, dict) for value in inner):
        if is_record(around, of_columns=True):
            raise DataError(
                f"{file}: is a table by columns, with a value for each record under every key; "
                "write it by records (in pandas, orient='records')"
            )
        return inner
    return items


def _items(content: str) -> Iterator[Any]:
    """Yield the content of each item of a JSON list or of JSON Lines.

    Text that is not JSON becomes a `_Broken`.
    """
    decoder = json.JSONDecoder()
    place = _skip(content, 0, "")
    listed = content[place : place + 1] == "["
    if listed:
        place += 1
    while True:
        place = _skip(content, place, "," if listed else "")
        if place >= len(content):
            if listed:
                yield _Broken("is no JSON: the list does not end")
            return
        if listed and content[place] == "]":
            return
        try:
            item, place = decoder.raw_decode(content, place)
        except (ValueError, RecursionError) as error:
            yield _Broken(f"is no JSON: {error}")
            end = content.find("\n", place)
            if listed or end < 0:
                return
            place = end  # after a bad line of JSON Lines, the next line may be good
        else:
            yield item


def _skip(content: str, place: int, separators: str) -> int:
    while place < len(content) and (content[place].isspace() or content[place] in separators):
        place += 1
    return place
