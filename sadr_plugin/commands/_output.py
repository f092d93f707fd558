"""What a command writes besides what it shows: data, a page, pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from ..pages import Page


class Findings(Protocol):
    """What a command found."""

    def as_data(self) -> dict[str, Any]:
        """As JSON can hold it."""

    def page(self) -> Page:
        """As a page to look at."""


@dataclass(frozen=True)
class Output:
    """Where to, as the options of these names say; None for not at all."""

    json: Path | None = None
    report: Path | None = None
    svg: Path | None = None
    png: Path | None = None

    def check(self) -> None:
        """See beforehand that all can be written.

        Raises:
            ConfigError: there is no such folder, or what is there is not of the kind.
            EvaluationError: what draws is not installed.
        """
        for option, file in (("--json", self.json), ("--report", self.report)):
            if file is not None and not file.absolute().parent.is_dir():
                raise ConfigError(f"{option}: there is no folder {file.absolute().parent}")
            if file is not None and file.is_dir():
                raise ConfigError(f"{option}: {file} is a folder, not a file")
        for option, folder in (("--svg", self.svg), ("--png", self.png)):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise ConfigError(f"{option}: {folder} is a file, not a folder")
        if self.wants_page:
            from ..pages import expect_drawing

            expect_drawing()

    def write(self, findings: Findings, console: Console) -> None:
        """Write what is wanted, and say where the page is."""
        if self.json is not None:
            write_json(self.json, findings.as_data())
        if self.wants_page:
            self.write_page(findings.page(), console)

    @property
    def wants_page(self) -> bool:
        """Whether a page, or the charts of one, are to be written."""
        return any((self.report, self.svg, self.png))

    def write_page(self, page: Page, console: Console) -> None:
        """Write the page and its charts as far as they are wanted."""
        for folder, suffix in ((self.svg, ".svg"), (self.png, ".png")):
            if folder is not None:
                page.write_charts(folder, suffix)
        if self.report is not None:
            page.write(self.report)
            console.print(f"a page to look at: {self.report.absolute()}", markup=False)


def write_json(file: Path, data: Any) -> None:
    """Write data to a file that `Output.check` has looked at."""
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
