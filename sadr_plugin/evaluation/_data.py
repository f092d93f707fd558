"""Read the records of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..editor import Record, weighable
from ..errors import DataError
from ._formats import Format, parse
from ._items import Broken, Named, items


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
    """Read the records of a file: a JSON list, JSON Lines, or an object that holds the records.

    Args:
        file: the file, UTF-8.
        skip_bad: whether to list bad records in `Data.skipped`, instead of stopping at the first.

    Raises:
        DataError: the file cannot be read, a record is malformed, or there is no usable record. The
            message names the file, and if possible the record's number (from 0) and field.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
        parsed = list(_parsed(items(content)))
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: cannot be read as UTF-8 text: {error}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    own = {item.own_key() for _, item in parsed if not isinstance(item, ValueError)}
    records: dict[str, Record] = {}
    skipped: list[str] = []
    not_asked: Counter[str] = Counter()
    for name, item in parsed:
        try:
            if isinstance(item, ValueError):
                raise item
            record = weighable(item.record(item.own_key() or _free(name, own)))
            if record.key in records:
                raise ValueError(f"case_id: {record.key} is an earlier record's")
            records[record.key] = record
            not_asked.update(item.groups_not_asked())
        except ValueError as error:
            wrong = f"record {name}: {error}"
            if not skip_bad:
                raise DataError(f"{file}: {wrong}") from None
            skipped.append(wrong)
    if not records:
        raise DataError(f"{file}: holds no usable record" + "".join(f"; {s}" for s in skipped[:3]))
    return Data(list(records.values()), skipped, dict(not_asked))


def _parsed(named: Named) -> Iterator[tuple[str, Format | ValueError]]:
    """Yield each item in its format, or the reason why it is in none."""
    for name, item in named:
        try:
            if isinstance(item, Broken):
                raise item
            yield name, parse(item)
        except ValueError as error:
            yield name, error


def _free(name: str, own: set[str | None]) -> str:
    """Return the key of a record without a ``case_id``: its name, which another may also have."""
    while name in own:
        name = f"#{name}"
    return name
