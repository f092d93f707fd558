"""The installed versions of the plugin and of other packages, and hashes of their code."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path


def plugin_version() -> str:
    """Return the installed version, or ``"not installed"`` for a source tree on the path."""
    try:
        return version("sadr-plugin")
    except PackageNotFoundError:
        return "not installed"


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the packages' installed versions, with None for one that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def code_version(name: str, package: str) -> str | None:
    """Return the version of the code that ``import package`` would run, without importing it.

    Args:
        name: the distribution that has the package.
        package: the name of a top-level package.

    Returns:
        None if the distribution is not installed, or if the package comes from another place, such
        as a checkout on ``PYTHONPATH``.
    """
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return None
    own = Path(str(installed.locate_file(package))).resolve()
    return installed.version if [place.resolve() for place in places_of(package)] == [own] else None


def code_sha256(package: str) -> str | None:
    """Return a hash of the Python files that ``import package`` would use, without importing it.

    The hash does not depend on where the package is.

    Returns:
        None if there is no such package.
    """
    digest = hashlib.sha256()
    places = places_of(package)
    for place in places:
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(file.relative_to(place).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if places else None


def places_of(package: str) -> list[Path]:
    """Return the folders of a package, or the file of a module. Empty if there is none."""
    try:
        found = find_spec(package)
    except ValueError:  # a module that was made in memory
        return []
    if found is None:
        return []
    if found.submodule_search_locations is not None:
        return [Path(place) for place in found.submodule_search_locations]
    return [Path(found.origin)] if found.has_location and found.origin else []
