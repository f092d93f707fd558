"""What a command writes to files: data, a page and pictures."""

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
    """The results of a command."""

    def as_data(self) -> dict[str, Any]:
        """Return the results as data for JSON."""

    def page(self) -> Page:
        """Return the results as a page."""


@dataclass(frozen=True)
class Output:
    """The files and folders to write, as in the options of the same names. None means none."""

    json: Path | None = None
    report: Path | None = None
    svg: Path | None = None
    png: Path | None = None

    def check(self) -> None:
        """Check in advance that everything can be written.

        Raises:
            ConfigError: a folder does not exist, a file is a folder, or a folder is a file.
            EvaluationError: the packages that draw charts are not installed.
        """
        for option, file in (("--json", self.json), ("--report", self.report)):
            if file == Path("-"):
                raise ConfigError(f"{option}: '-' is no file; name one")
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
        """Write what the options ask for, and print the path of the page."""
        if self.json is not None:
            write_json(self.json, findings.as_data())
        if self.wants_page:
            self.write_page(findings.page(), console)

    @property
    def wants_page(self) -> bool:
        """Whether the options ask for a page or its charts."""
        return any((self.report, self.svg, self.png))

    def write_page(self, page: Page, console: Console) -> None:
        """Write the page and its charts, as far as the options ask for them."""
        for folder, suffix in ((self.svg, ".svg"), (self.png, ".png")):
            if folder is not None:
                page.write_charts(folder, suffix)
        if self.report is not None:
            page.write(self.report)
            console.print(f"a page to look at: {self.report.absolute()}", markup=False)


def write_json(file: Path, data: Any) -> None:
    """Write data to a file. `Output.check` has to be called before."""
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
