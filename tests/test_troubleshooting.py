"""The troubleshooting page has an entry for each message of the plugin, and no other entry.

An entry is an item of a bullet list whose first paragraph consists of messages in code spans. What
varies in a message is a placeholder on the page: ``<file>: lacks <keys>``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from sadr_plugin import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
OWN = {name for name, value in vars(errors).items() if isinstance(value, type)}
NOT_FOR_USERS = {"AttributeError", "LookupError", "NotImplementedError"}
LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}


def skeleton(text: str) -> str:
    """The text with each placeholder as ``<>``, and single spaces."""
    return " ".join(re.sub("(<[^<>]*>)+", "<>", text).split())


def text_of(node: ast.expr) -> str:
    """A string as the code builds it, with a placeholder for each part that varies."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return "<>"


@cache
def sources() -> dict[Path, ast.Module]:
    files = [f for name in ("sadr_plugin", "adapters") for f in (ROOT / name).rglob("*.py")]
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)}


@cache
def returned_by(function: str) -> list[ast.expr]:
    """What the functions of this name return."""
    return [
        inner.value
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
        for inner in ast.walk(node)
        if isinstance(inner, ast.Return) and inner.value is not None
    ]


def name_of(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def told(node: ast.AST) -> Iterator[str]:
    """The messages that a statement or a call gives to users."""
    if isinstance(node, ast.Assert) and node.msg is not None:
        yield text_of(node.msg)
    raised = node.exc if isinstance(node, ast.Raise) else node
    if not isinstance(raised, ast.Call) or not raised.args:
        return
    name, message = name_of(raised.func), raised.args[0]
    if name in LOGGING and ast.unparse(raised.func).startswith("LOGGER."):
        yield re.sub(r"%[.\d]*[a-z]", "<>", text_of(message)).replace("%%", "%")
    elif name in OWN or name == "warn" or (raised is not node and name not in NOT_FOR_USERS):
        if isinstance(message, ast.Call):
            yield from map(text_of, returned_by(name_of(message.func)))
        else:
            yield text_of(message)


def messages() -> dict[str, str]:
    """Each message of the code, with its place."""
    return {
        skeleton(text): f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for file, tree in sources().items()
        for node in ast.walk(tree)
        for text in told(node)
        if re.search("[A-Za-z]{3}", skeleton(text))  # else it only passes another message on
    }


def entries() -> set[str]:
    """Each message of the page."""
    found: set[str] = set()
    for before, token in pairwise(MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))):
        parts = token.children or []
        kinds = {part.type for part in parts}
        in_list = before.type == "paragraph_open" and before.level > 0
        if in_list and "code_inline" in kinds <= {"code_inline", "html_inline", "softbreak"}:
            found |= {skeleton(part.content) for part in parts if part.type == "code_inline"}
    return found


def test_each_message_has_an_entry():
    there = entries()
    assert {text: place for text, place in messages().items() if text not in there} == {}


def test_no_entry_is_stale():
    strings = {
        skeleton(text_of(node))
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))
    }
    assert sorted(entries() - strings - messages().keys()) == []
