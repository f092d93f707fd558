"""Kills `sadr eval` (SIGKILL) three times in a real sequence, and compares the results.

The other results come from a run of the same sequence that is not killed.

python benchmarks/killed.py HPARAMS.yaml FOLDER
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from sadr_plugin.evaluation import read_checkpoints, read_results

OPTIONS = "--data builtin --limit 9 --no-fluency --mode sequence --checkpoints 1,3,6,9"


def start(hparams: str, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = ["sadr", "eval", hparams, *OPTIONS.split(), "--arms", "plain,sadr", *more]
    return subprocess.Popen([*command, "--out", str(out)], start_new_session=True)


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        sys.exit(f"sadr eval ended with {process.returncode}")


def numbers(out: Path) -> tuple[list[str], list[str]]:
    """Return all results and checkpoints of a run, without times."""
    results = [replace(result, seconds=0.0) for result in read_results(out / "results.jsonl")]
    checkpoints = read_checkpoints(out / "checkpoints.jsonl")
    return sorted(map(repr, results)), sorted(map(repr, checkpoints))


def main(hparams: str, folder: str) -> None:
    whole, broken = Path(folder, "whole"), Path(folder, "broken")
    started = time.monotonic()
    finish(start(hparams, whole))
    seconds = time.monotonic() - started
    resume: list[str] = []
    for _ in range(3):
        process = start(hparams, broken, *resume)
        try:
            process.wait(20 + random.random() * seconds / 2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        lines = broken / "results.jsonl"
        print(f"killed with {len(read_results(lines))} lines")
        resume = ["--resume"] if lines.exists() else []
    finish(start(hparams, broken, *resume))
    print(f"{len(numbers(whole)[0])} lines; equal: {numbers(whole) == numbers(broken)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
