"""The folder of an evaluation: which run it belongs to, and whether the run may continue."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import code_version, versions
from ..errors import ConfigError

PACKAGES = ("sadr-plugin", "torch", "transformers", "nnsight")

TOOLKITS = {"easyeditor": "easyeditor", "pyfastedit": "fastedit"}
"""The distributions of toolkits, with the names of their packages."""

CONTINUED = (
    "checkpoints.jsonl",
    "study.journal",
    "finals.jsonl",
    "judged-*.jsonl",
    "causal-*.jsonl",
)
"""The other files from which a run continues. They belong to the results in ``results.jsonl``."""


def claim(folder: Path, about: Mapping[str, Any], resume: bool) -> None:
    """Claim the folder for this run, or check that it belongs to this run.

    Args:
        folder: ``--out``.
        about: what the run's numbers depend on. It is stored in ``run.json``.
        resume: whether the run may continue from the results in the folder.

    Raises:
        ConfigError: the folder has results of another run, results without ``run.json``, or other
            files of a run without its results. A run without any result does not count.
    """
    from ..evaluation._files import has_content, replacing

    file, text = folder / "run.json", json.dumps(about, indent=2)
    if has_content(folder / "results.jsonl"):
        if not file.exists():
            raise ConfigError(
                f"--out: {folder} holds results but no run.json, which would say of which run; "
                "name another folder"
            )
        if not resume:
            raise ConfigError(
                f"--out: {folder} holds a run; continue it with --resume, or name another folder"
            )
        _expect_same(file, json.loads(text))
        return
    left = [found.name for name in CONTINUED for found in folder.glob(name) if has_content(found)]
    if left:
        raise ConfigError(
            f"--out: {folder} holds {', '.join(sorted(left))} of a run whose results.jsonl is "
            "gone; name another folder, or empty this one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")


def _expect_same(file: Path, about: dict[str, Any]) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8-sig"))
        differing = [key for key in {**before, **about} if before.get(key) != about.get(key)]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"--resume: {file} cannot be read: {error}") from None
    if differing:
        raise ConfigError(
            f"--resume: {file.parent} holds a run with other settings: {', '.join(differing)}; "
            f"see {file}"
        )


def packages() -> dict[str, str | None]:
    """Return the versions of the packages that results depend on.

    A toolkit whose code is not that of its installed distribution has none.
    """
    toolkits = {name: code_version(name, package) for name, package in TOOLKITS.items()}
    return {**versions(PACKAGES), **toolkits}


def machine() -> dict[str, Any]:
    """Return the properties of the machine that times depend on."""
    import torch

    return {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
