"""Hooks of the MkDocs build: they add generated pages and replace links to files outside docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from sadr_plugin.commands.cli import build

ROOT = Path(__file__).parents[2]

# A link from a page to a file of the repository outside docs/. It works on GitHub only.
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)#\s]+)(?:#[^)\s]*)?\)")


def command_line() -> str:
    """Return the page about all commands and options, made from the commands' own help."""
    command = typer.main.get_command(build())
    context = typer.Context(command, info_name="sadr")
    text = get_docs_for_click(obj=command, ctx=context, name="sadr", title="Command line")
    for name, found in command.commands.items():  # the summaries in the list are cut off
        summary = (found.help or "").strip().splitlines()[0]
        text = re.sub(
            rf"^\* `{name}`: .*\.\.\.$", f"* `{name}`: {summary}", text, flags=re.MULTILINE
        )
    return re.sub(r"^\$ ", "", text, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files in docs/."""
    pages = {
        "reference/command-line.md": command_line(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files outside docs/ with their text. The site contains only docs/."""
    return OUTSIDE.sub(_inside, markdown)


def _inside(link: re.Match[str]) -> str:
    text, target = link.groups()
    return f"{text} (`{target}`)" if target not in text else text
