"""Models that come as packages from PyPI, converted once into the user's cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Where converted models lie: ``$SADR_CACHE``, else ``sadr`` in the user's cache folder."""
    own = os.environ.get("SADR_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sadr"


def converted(name: str, convert: Callable[[Path], None]) -> Path:
    """The folder of a converted model, converting it if it is not there yet.

    Args:
        name: the model's, and its folder's.
        convert: writes the model into a folder.
    """
    folder = cache_folder() / name
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Elsewhere first, so that an interrupted conversion leaves nothing half done.
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            convert(Path(scratch) / "model")
            try:
                os.replace(Path(scratch) / "model", folder)
            except OSError:
                if not (folder / "config.json").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(Path(scratch) / "model", folder)
    return folder
