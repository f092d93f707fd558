"""One HTML file with tables, charts and maps of attention, that needs nothing but a browser."""

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
"""Attention is written into a page in thousandths."""

WORDS = 24
"""Cells with more characters are kept wide."""

MARKS = 5000
"""How many squares the maps of a page may have together; each takes some 250 bytes."""

LARGEST = 2_000_000
"""Bytes that a page should not exceed."""


@dataclass
class Page:
    """A page under way.

    Args:
        title: what it is about.
        subtitle: a sentence that says what was done.
    """

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)
    _charts: dict[str, Chart] = field(default_factory=dict)

    @property
    def charts(self) -> Charts:
        """The charts on the page, by name."""
        return dict(self._charts)

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Add text as it is, to be copied."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(
        self,
        rows: Sequence[Sequence[str]],
        caption: str = "",
        marks: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        """Add a table.

        Args:
            rows: cells as text, the header first.
            caption: what stands below.
            marks: classes of single cells, by (row, column) without the header: ``"good"``,
                ``"bad"``.
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
        note = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>{note}</figure>"
        )

    def chart(self, name: str, chart: Chart, caption: str = "") -> None:
        """Add a chart.

        Args:
            name: the name of its file, where charts are written as files.
            chart: see `sadr_plugin.pages`.
            caption: what stands below.
        """
        self._parts.append(_figure(self._svg(name, chart), caption))

    def attention(self, maps: Sequence[AttentionMap], arms: Sequence[str]) -> None:
        """Add maps of attention: for each prompt the heads of every arm, and the row of one.

        As many as there is room for: first the edit's own, then one of each kind, and so on.

        Args:
            maps: the maps; those of all arms have the unedited rows besides.
            arms: the edited arms.
        """
        squares = len(arms) * maps[0].rows[arms[0]].shape[:2].numel()
        chosen = sorted(maps, key=lambda found: found.question)[: max(1, MARKS // squares)]
        for number, found in enumerate(chosen):
            self._parts.append(self._map(number, found, arms))

    def write(self, file: Path) -> None:
        """Write the page.

        Raises:
            ConfigError: there is no folder for it, or it would be too large.
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
        if len(page.encode()) > LARGEST:
            raise ConfigError(f"--report: the page would have {len(page) / 1e6:.1f} MB")
        if not file.absolute().parent.is_dir():
            raise ConfigError(f"--report: there is no folder {file.absolute().parent}")
        file.write_text(page, encoding="utf-8")

    def write_charts(self, folder: Path, suffix: str) -> None:
        """Write every chart as a file of its own, ``.svg`` or ``.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, chart in self._charts.items():
            save(chart, folder / f"{name}{suffix}")

    def _svg(self, name: str, chart: Chart) -> str:
        if name in self._charts:
            raise ValueError(f"two charts are called {name!r}")
        self._charts[name] = chart
        # The page's own colour is to lie behind it.
        return svg(chart, f"c{len(self._charts)}-").replace('fill="white"', 'fill="none"', 1)

    def _map(self, number: int, found: AttentionMap, arms: Sequence[str]) -> str:
        from ..drift import ranked
        from ..evaluation import SHORT, UNEDITED

        drifted = {arm: ranked([found], arm) for arm in arms}
        largest = max(of_arm[0].divergence for of_arm in drifted.values())
        charts = "".join(
            f'<div data-arm="{html.escape(arm)}">'
            f"{self._svg(f'heads-{number}-{_file_name(arm)}', heads(of_arm, arm, largest))}</div>"
            for arm, of_arm in drifted.items()
        )
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
    """Settings as the rows of a table."""
    return [["setting", "value"], *([name, _short(value)] for name, value in values.items())]


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
