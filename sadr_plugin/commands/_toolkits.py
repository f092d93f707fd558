"""Which copy of a toolkit Python would import: its folder, and its version or commit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from .._version import code_version, places_of


def copy_of(package: str) -> str | None:
    """Return the folder of a top-level package, with its version or commit, in words.

    Returns:
        None if there is no such package.
    """
    found = places_of(package)
    if not found:
        return None
    for name in _distributions().get(package, ()):
        version = code_version(name, package)
        if version is not None:
            return f"{found[0]} (version {version})"
    commit = _commit(found[0].resolve())
    return f"{found[0]}" if commit is None else f"{found[0]} (commit {commit[:7]})"


@cache
def _distributions() -> Mapping[str, Sequence[str]]:
    return packages_distributions()


def _commit(place: Path) -> str | None:
    """Return the commit of the checkout that a folder is in, read from Git's own files."""
    checkout = next((f for f in place.parents if (f / ".git").exists()), None)
    if checkout is None:
        return None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        git = checkout / ".git"
        if git.is_file():  # a worktree, or a submodule
            git = checkout / git.read_text(encoding="utf-8").partition("gitdir:")[2].strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        name = head.partition("ref:")[2].strip()
        return _hash_of(git, name) if name else head
    return None


def _hash_of(git: Path, name: str) -> str | None:
    """Return the commit that a branch points to. Git packs branches that rest in one file."""
    common = git
    if (git / "commondir").is_file():
        common = git / (git / "commondir").read_text(encoding="utf-8").strip()
    for folder in (git, common):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").strip()
    packed = common / "packed-refs"
    for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
        commit, _, branch = line.partition(" ")
        if branch == name:
            return commit
    return None
