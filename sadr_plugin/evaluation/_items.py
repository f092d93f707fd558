"""The items of a file of records: a JSON list, JSON Lines, or an object that holds the records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Named = list[tuple[str, Any]]
"""Items by name: the number in the file, from 0, or the key of the object around them."""

MARKS = ("subject", "prompt", "target_new", "src", "alt")
"""Keys of an edit. An object with two of them is a record."""


class Broken(ValueError):
    """Text that is not JSON. It takes the place of an item."""


def items(content: str) -> Named:
    """Return the items of a file. Text that is not JSON becomes a `Broken`.

    A single object that is no record itself may hold them: as a list under any key, or each under
    a key of its own, as pandas writes a table by its index.

    Raises:
        ValueError: the object around the records does not say which they are.
    """
    found = [(str(number), item) for number, item in enumerate(_decoded(content))]
    if len(found) == 1 and isinstance(found[0][1], dict) and not _is_listed(content):
        return _inside(found[0][1]) or found
    return found


def is_record(item: Any) -> bool:
    """Whether an item has the keys of a record, of whatever format and however malformed."""
    if not isinstance(item, dict):
        return False
    known = "requested_rewrite" in item or {"concept", "labels"} <= item.keys()
    return known or isinstance(item.get("edit"), dict) or is_flat(item)


def is_flat(item: Mapping[str, Any]) -> bool:
    """Whether an object has keys of an edit itself, and not under ``requested_rewrite``."""
    return sum(key in item for key in MARKS) > 1


def _inside(whole: Mapping[str, Any]) -> Named | None:
    """Return the items that an object holds, or None if it holds none.

    Raises:
        ValueError: the object is a table by columns, or holds several lists of records.
    """
    while not is_record(whole):
        lists = {key: value for key, value in whole.items() if isinstance(value, list)}
        of_records = [key for key, value in lists.items() if any(map(is_record, value))]
        if len(of_records) > 1:
            raise ValueError(
                f"has several lists of objects, under {', '.join(map(repr, of_records))}; put the "
                "records into a file of their own"
            )
        for key in of_records:
            return [(str(number), item) for number, item in enumerate(lists[key])]
        objects = [value for value in whole.values() if isinstance(value, dict)]
        if any(map(is_record, objects)) and not _is_table(objects[0]):
            return list(whole.items())
        if len(objects) != 1:
            return None
        whole = objects[0]
    if _is_table(whole):
        raise ValueError(
            "is a table by columns, with a value for each record under every key; write it by "
            "records (in pandas, orient='records')"
        )
    return None


def _is_table(whole: Mapping[str, Any]) -> bool:
    """Whether all values of an object are lists, or objects, about the same rows."""
    columns = list(whole.values())
    if all(isinstance(column, dict) for column in columns):
        rows = [set(column) for column in columns]
        return len(columns) > 1 and bool(rows[0]) and rows.count(rows[0]) == len(rows)
    if all(isinstance(column, list) for column in columns) and "requested_rewrite" not in whole:
        return len(columns) > 1 and len(set(map(len, columns))) == 1
    return False


def _decoded(content: str) -> Iterator[Any]:
    """Yield each item of a JSON list or of JSON Lines."""
    decoder = json.JSONDecoder()
    place, listed = _skip(content, 0, ""), _is_listed(content)
    if listed:
        place += 1
    while True:
        place = _skip(content, place, "," if listed else "")
        if place >= len(content):
            if listed:
                yield Broken("is no JSON: the list does not end")
            return
        if listed and content[place] == "]":
            return
        try:
            item, place = decoder.raw_decode(content, place)
        except (ValueError, RecursionError) as error:
            yield Broken(f"is no JSON: {error}")
            end = content.find("\n", place)
            if listed or end < 0:
                return
            place = end  # after a bad line of JSON Lines, the next line may be good
        else:
            yield item


def _is_listed(content: str) -> bool:
    return content.startswith("[", _skip(content, 0, ""))


def _skip(content: str, place: int, separators: str) -> int:
    """Return the place after white space, separators and byte order marks."""
    while place < len(content) and (
        content[place].isspace() or content[place] in f"\ufeff{separators}"
    ):
        place += 1
    return place
