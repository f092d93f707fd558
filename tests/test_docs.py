"""The README and the documentation: the site is built, and what can be copied from a page works.

A page's Python blocks run one after another in a process of their own. YAML blocks are parsed, and
what stands under ``sadr:`` has to be accepted. Commands of shell blocks have to exist, with their
options. The comment ``<!-- not run: why -->`` before a block keeps it from being run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer
import yaml
from markdown_it import MarkdownIt

from sadr_plugin import SadrConfig
from sadr_plugin.commands.cli import build

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "bash", "yaml", "text", "toml", "mermaid", "json"}
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    line: int
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        comment = ""
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
            if token.type == "fence":
                runs = NOT_RUN.search(comment) is None
                found.append(Block(page, token.info.strip(), token.content, token.map[0] + 2, runs))
            comment = token.content if token.type == "html_block" else ""
    return found


BLOCKS = blocks()


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.runs]


def test_every_block_names_its_language():
    assert [str(b) for b in BLOCKS if b.language not in LANGUAGES] == []


PYTHON_PAGES = sorted({block.page for block in of("python")})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path):
    """Each block stands at its own line, so that a traceback names the line of the page."""
    lines: list[str] = []
    for block in of("python"):
        if block.page == page:
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_blocks_are_accepted(block):
    data = yaml.safe_load(block.text)
    if isinstance(data, dict) and "sadr" in data:
        SadrConfig.parse(data["sadr"])


def test_settings_in_tables_are_accepted():
    """Tables have settings to copy, each on one line."""
    line = re.compile(r"`(sadr: \{[^`]+\})`")
    found = [text for page in PAGES for text in line.findall(page.read_text())]
    assert len(found) > 50
    for text in found:
        SadrConfig.parse(yaml.safe_load(text)["sadr"])


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block, as words; each part of a pipe or list by itself."""
    text = block.text.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, w in enumerate(words) if w in {"&&", "||", "|", ";"}), len(words))
            found.append(words[:end])
            words = words[end + 1 :]
    return [words for words in found if words]


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_exist(block):
    app = typer.main.get_command(build())
    makefile = (ROOT / "Makefile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in commands(block):
        while words and re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value
            words = words[1:]
        if not words:
            continue
        if words[0] == "make":
            for target in words[1:]:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
        elif words[0] == "sadr":
            check_options(app, words[1:])
        for extras in re.findall(r"sadr-plugin\[([^\]]+)\]|\.\[([^\]]+)\]", " ".join(words)):
            for extra in "".join(extras).split(","):
                assert extra in project["optional-dependencies"], extra
        for word in words[1:]:
            path = word.partition("::")[0]
            if path.startswith(("benchmarks/", "tests/", "examples/", "requirements/", "docs/")):
                assert (ROOT / path).exists(), f"{word} of {block}"


def check_options(app: Any, words: list[str]) -> None:
    if words[:1] == ["--help"] or words[:1] == ["--version"]:
        return
    assert words, "sadr alone"
    command = app.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    for word in words[1:]:
        if word.startswith("-") and len(word) > 1:
            assert word.partition("=")[0] in known | {"--help"}, f"sadr {words[0]} {word}"


def test_the_site_is_built_strictly(tmp_path):
    """No page is missing, no link or anchor dead."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    build_site = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build_site, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command_line = (tmp_path / "reference" / "command-line" / "index.html").read_text()
    assert "sadr tune" in command_line
    assert "mom2_update_weight" in (tmp_path / "tuning" / "index.html").read_text()
    assert "stop_at" in (tmp_path / "reference" / "python" / "index.html").read_text()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100
