"""A page: one HTML file with tables, charts and attention maps, for any browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ._charts import Chart, Charts, heads, save, svg

if TYPE_CHECKING:
    from ..drift import AttentionMap

PER_MILLE = 1000
"""The scale of attention weights in a page: they are written in thousandths."""

WORDS = 24
"""The number of characters above which a cell gets a minimum width."""

MARKS = 5000
"""The largest number of squares in all maps of a page. Each square takes about 250 bytes."""

LARGEST = 2_000_000
"""The largest size of a page, in bytes."""


@dataclass
class Page:
    """A page that is being made.

    Args:
        title: the title.
        subtitle: a sentence that says what was done.
    """

    title: str
    subtitle: str = ""
    _section: str = ""
    _parts: list[str] = field(default_factory=list)
    _charts: dict[str, Chart] = field(default_factory=dict)

    @property
    def charts(self) -> Charts:
        """The charts of the page, by name."""
        return dict(self._charts)

    def heading(self, text: str) -> None:
        """Start a section."""
        self._section = text
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add text that readers can copy, without changes."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(
        self,
        rows: Sequence[Sequence[str]],
        caption: str = "",
        marks: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        """Add a table.

        Args:
            rows: the cells as text. The first row is the header.
            caption: the text below the table.
            marks: the classes of single cells, ``"good"`` or ``"bad"``, by (row, column). The
                header is not counted as a row.
        """
        header, *body = rows
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
        lines = []
        for number, row in enumerate(body):
            cells = []
            for place, cell in enumerate(row):
                mark = (marks or {}).get((number, place), "")
                kind = "number" if _is_number(cell) else "words" if len(cell) > WORDS else ""
                kind = " ".join(filter(None, (kind, mark)))
                cells.append(f'<td class="{kind}">{html.escape(cell)}</td>')
            lines.append(f"<tr>{''.join(cells)}</tr>")
        # Screen readers call the table by its caption, or else by its section.
        own, label = f"caption-{len(self._parts)}", f'aria-label="{html.escape(self._section)}"'
        note = ""
        if caption:
            note = f'<figcaption id="{own}">{html.escape(caption)}</figcaption>'
            label = f'aria-labelledby="{own}"'
        self._parts.append(
            f'<figure><div class="wide"><table {label}><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>{note}</figure>"
        )

    def chart(self, name: str, chart: Chart, caption: str = "") -> None:
        """Add a chart.

        Args:
            name: the name of the chart's file, if charts are also written as files.
            chart: a chart of `sadr_plugin.pages`.
            caption: the text below the chart.
        """
        label = f"{self._section}: {name.replace('-', ' ')}"
        self._parts.append(_figure(self._svg(name, chart, label), caption))

    def attention(self, maps: Sequence[AttentionMap], arms: Sequence[str]) -> None:
        """Add attention maps: for each prompt, the heads of every arm, and the row of one head.

        If there is no room for all maps, the first question of each kind is shown, then the second,
        and so on. The edit's own prompt comes first.

        Args:
            maps: the maps. Each has the rows of all arms and the unedited rows.
            arms: the edited arms.
        """
        squares = len(arms) * maps[0].rows[arms[0]].shape[:2].numel()
        chosen = sorted(maps, key=lambda found: found.question)[: max(1, MARKS // squares)]
        for number, found in enumerate(chosen):
            self._parts.append(self._map(number, found, arms))

    def write(self, file: Path) -> None:
        """Write the page to a file.

        Raises:
            ConfigError: the file's folder does not exist, or the page is too large.
        """
        from .._version import plugin_version

        values = {
            "title": html.escape(self.title),
            "subtitle": html.escape(self.subtitle),
            "style": _resource("page.css"),
            "body": "\n".join(self._parts),
            "script": _resource("page.js"),
            "version": plugin_version(),
        }
        page = re.sub(r"@(\w+)@", lambda name: values[name[1]], _resource("page.html"))
        size = len(page.encode())
        if size > LARGEST:
            raise ConfigError(
                f"the page would have {size / 1e6:.2f} MB, and the limit is {LARGEST / 1e6:g} MB; "
                "take fewer records, or write only the charts"
            )
        if not file.absolute().parent.is_dir():
            raise ConfigError(f"the page: there is no folder {file.absolute().parent}")
        file.write_text(page, encoding="utf-8")

    def write_charts(self, folder: Path, suffix: str) -> None:
        """Write each chart to its own file, ``.svg`` or ``.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in self._charts.items():
            save(chart, folder / f"{name}{suffix}")

    def _svg(self, name: str, chart: Chart, label: str) -> str:
        """Return a chart as SVG and store it. Screen readers call it ``label``."""
        if name in self._charts:
            raise ValueError(f"two charts are called {name!r}; give one of them another name")
        self._charts[name] = chart
        # The page's own background colour has to be visible.
        drawn = svg(chart, f"c{len(self._charts)}-").replace('fill="white"', 'fill="none"', 1)
        return drawn.replace("<svg ", f'<svg role="group" aria-label="{html.escape(label)}" ', 1)

    def _map(self, number: int, found: AttentionMap, arms: Sequence[str]) -> str:
        from ..drift import ranked
        from ..evaluation import SHORT, UNEDITED

        drifted = {arm: ranked([found], arm) for arm in arms}
        largest = max(of_arm[0].divergence for of_arm in drifted.values())
        charts = ""
        for arm, of_arm in drifted.items():
            name, label = f"heads-{number}-{_file_name(arm)}", f"How far each head has moved: {arm}"
            drawn = self._svg(name, heads(of_arm, arm, largest), label)
            charts += f'<div data-arm="{html.escape(arm)}">{drawn}</div>'
        first = drifted[arms[0]][0]
        data = {
            "tokens": list(found.tokens),
            "subject": found.subject,
            "layers": list(found.layers),
            "first": [found.layers.index(first.layer), first.head],
            "rows": {
                arm: (found.rows[arm] * PER_MILLE).round().int().tolist()
                for arm in (UNEDITED, *arms)
            },
        }
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        opened = " open" if number == 0 else ""
        return (
            f'<details class="attention"{opened}>'
            f"<summary><b>{SHORT[found.kind]}</b> {html.escape(found.prompt)}</summary>"
            f'<div class="maps">{charts}</div>'
            '<div class="row" aria-live="polite"></div>'
            f'<script type="application/json">{text}</script></details>'
        )


def _figure(content: str, caption: str) -> str:
    note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="chart"><div class="wide">{content}</div>{note}</figure>'


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _file_name(text: str) -> str:
    return re.sub(r"\W+", "-", text).strip("-")


def _is_number(cell: str) -> bool:
    return bool(re.match(r"^[−+-]?[\d.]|^–$", cell))


def facts(values: Mapping[str, Any]) -> list[list[str]]:
    """Return settings as the rows of a table."""
    return [["setting", "value"], *([name, _short(value)] for name, value in values.items())]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
