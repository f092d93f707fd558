"""The README and the documentation: the site is built, and what can be copied from a page works.

A page's Python blocks run one after another in a process of their own. YAML, JSON and TOML blocks
are parsed, and what stands under ``sadr`` has to be accepted. Each command of a shell block has to
be one that this file knows how to check, also in a loop, a pipe or a ``$(...)``. The comment
``<!-- not run: why -->`` before a block keeps it from being run or checked.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer
import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

from sadr_plugin import SadrConfig
from sadr_plugin.commands.cli import build

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "bash", "yaml", "text", "toml", "json"}
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


PARSERS = {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}


@pytest.mark.parametrize("block", [b for language in PARSERS for b in of(language)], ids=str)
def test_data_blocks_are_accepted(block):
    data = PARSERS[block.language](block.text)
    assert data, "it holds something"
    if isinstance(data, dict) and "sadr" in data:
        SadrConfig.parse(data["sadr"])


def test_settings_in_tables_are_accepted():
    """Tables have settings to copy, each on one line."""
    line = re.compile(r"`(sadr: \{[^`]+\})`")
    found = [text for page in PAGES for text in line.findall(page.read_text())]
    assert len(found) > 50
    for text in found:
        SadrConfig.parse(yaml.safe_load(text)["sadr"])


SEPARATORS = {";", "&&", "||", "|", "&", "(", ")"}
SYSTEM = {"cat", "cd", "cp", "echo", "export", "git", "ln", "printf", "rm", "sed"}
"""Commands of the shell and the system. Nothing of theirs is checked."""


def commands(text: str, values: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the commands of a shell block, as words; each part of a pipe, list or loop by itself.

    Args:
        text: the block.
        values: what variables stand for; the assignments of the block are added.
    """
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        command: list[str] = []
        for word in [*reader, ";"]:
            for inner in re.findall(r"\$\((.+)\)", word):
                yield from commands(inner, values)
            if word not in SEPARATORS:
                command += values.get(word, [word])
                continue
            yield from _bare(command, values)
            command = []


def _bare(words: list[str], values: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield a command without keywords, assignments and redirections, if anything is left."""
    while words and words[0] in {"do", "done"}:
        words = words[1:]
    if words[:1] == ["for"]:
        assert words[2] == "in", words
        return
    while words and (assignment := re.fullmatch(r"(\w+)=(.*)", words[0])):
        values[f"${assignment[1]}"] = assignment[2].split()
        words = words[1:]
    for sign in (">", ">>", "<"):
        while sign in words:
            place = words.index(sign)
            words = words[:place] + words[place + 2 :]
    if words:
        yield words


def test_commands_are_found_in_loops_pipes_and_substitutions():
    text = """
for f in a b; do A=1 sadr stats $f --corpus "$(python -c 'print(1); 2')"; done
(cat a; echo "b: c") > d && sadr drift $all \\
    --out e | sed 's/;/|/'  # sadr unknown
all="--x 1"
"""
    assert list(commands(text, {"$all": ["--arms", "plain"]})) == [
        ["python", "-c", "print(1); 2"],
        ["sadr", "stats", "$f", "--corpus", "$(python -c 'print(1); 2')"],
        ["cat", "a"],
        ["echo", "b: c"],
        ["sadr", "drift", "--arms", "plain", "--out", "e"],
        ["sed", "s/;/|/"],
    ]


SHELL_PAGES = sorted({block.page for block in of("bash")})


@pytest.mark.parametrize("page", SHELL_PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    values: dict[str, list[str]] = {}
    for block in of("bash"):
        if block.page == page:
            for words in commands(block.text, values):
                try:
                    check(words)
                except (AssertionError, KeyError, ValueError, SyntaxError) as error:
                    raise AssertionError(f"{block}: {shlex.join(words)}: {error!r}") from error


def check(words: list[str]) -> None:
    """Check a command by the rules for its program. Every program needs one."""
    program, *rest = words[0].rpartition("/")[2], *words[1:]
    for word in rest:
        path = word.partition("::")[0].removeprefix("../sadr-plugin/")
        if "*" not in path and path.startswith(FOLDERS):
            assert (ROOT / path).exists(), f"there is no {path}"
    if program == "sadr":
        check_options(command_line(), rest)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in rest:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    elif program == "pip":
        check_pip(rest)
    elif program == "python":
        check_python(rest)
    elif program == "pytest":
        assert {word for word in rest if word.startswith("-")} <= {"-s"}
        assert [word for word in rest if word.startswith(FOLDERS)], "which tests?"
    else:
        assert program in SYSTEM, "no rule says how to check this program"


@pytest.mark.parametrize(
    "line",
    [
        "sadr eval a.yaml --nonsense",
        "for f in *.yaml; do sadr none $f; done",
        "cat a | sadr stats b.yaml --nonsense",
        "make nothing",
        "pip install --nonsense .",
        "pip install '.[nonsense]'",
        "python benchmarks/speed.py --nonsense",
        """echo "$(python -c '1 +')" """,
        "pytest tests/nonsense.py",
        "nonsense",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises((AssertionError, KeyError, SyntaxError)):
        check_all(line, {})


def check_all(text: str, values: dict[str, list[str]]) -> None:
    for words in commands(text, values):
        check(words)


FOLDERS = ("benchmarks/", "tests/", "examples/", "./examples/", "requirements/", "docs/")


@functools.cache
def command_line() -> Any:
    return typer.main.get_command(build())


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = iter(words[1:])
    for word in place:
        if word == "-r":
            next(place)
        elif word.startswith("-"):
            assert word == "--no-deps", word
        elif not word.startswith(("dist/", "./")):
            wanted = Requirement(re.sub(r"^\.(?=\[|$)", "sadr-plugin", word))
            if wanted.name == "sadr-plugin":
                assert wanted.extras <= set(project["optional-dependencies"]), word


def check_python(words: list[str]) -> None:
    if words[0] == "-c":
        compile(words[1], "-c", "exec")
        return
    assert words[0].removeprefix("../sadr-plugin/").startswith("benchmarks/")
    script = (ROOT / words[0].removeprefix("../sadr-plugin/")).read_text()
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word}"' in script, f"{words[0]} has no {word}"


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


def test_pages_and_notebook_import_what_the_reference_has():
    """Code that readers copy imports no module that may change without notice."""
    reference = (ROOT / "docs" / "reference" / "python.md").read_text()
    public = set(re.findall(r"^## (\S+)$", reference, re.MULTILINE))
    texts = {str(block): block.text for block in BLOCKS if block.language == "python"}
    notebook = json.loads((ROOT / "docs" / "first-edit.ipynb").read_text())
    texts["first-edit.ipynb"] = "\n".join(
        "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"
    )
    pattern = re.compile(r"^\s*(?:from|import) (sadr_[\w.]+)(?: import (\w+))?", re.MULTILINE)
    found = {
        (where, module, name)
        for where, text in texts.items()
        for module, name in pattern.findall(text)
    }
    assert len(found) > 20
    assert not [each for each in found if not {each[1], f"{each[1]}.{each[2]}"} & public]


def test_the_table_of_behaviours_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("## Where things are")[2].partition("\n## ")[0]
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(paths) > 25
    folders = [ROOT / "sadr_plugin", ROOT]
    # A file after another one may be in the same folder: "`a/b.py`; `c.py`".
    names = {file.name for file in (ROOT / "sadr_plugin").rglob("*.py")}
    missing = [p for p in paths if p not in names and not any((f / p).exists() for f in folders)]
    assert missing == []


def test_the_toolkits_packages_are_those_that_make_installs():
    page = (ROOT / "docs" / "use-in-easyedit.md").read_text()
    line = re.search(r"^pip install (transformers==.+)$", page, re.MULTILINE)[1]
    files = [ROOT / "requirements" / name for name in ("toolkits.txt", "transformers4.txt")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    wanted = {line for line in lines if line and not line.startswith(("#", "nnsight"))}
    assert set(line.split()) == wanted | {"torch"}


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
