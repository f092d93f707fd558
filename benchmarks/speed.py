"""Time and memory of an edit without SADR, with the plugin, and as the official code does it.

    python benchmarks/speed.py                      # the short form, about five minutes
    python benchmarks/speed.py --table --rounds 5   # the table of docs/performance.md
    python benchmarks/speed.py --growth             # how time grows with tokens and contexts
    python benchmarks/speed.py --memory             # peaks, each arm in a process of its own

The script times EasyEdit's own loops. The arms take turns in one process, so other work of the
machine affects all of them. MEMIT and PMET need EasyEdit's main branch (EASYEDIT_HOME on
PYTHONPATH). Each result is one line of JSON, printed at once on standard output.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from loops import ARMS, Case, Loop, in_turns, load_model, operations, ratios
from rich.console import Console

LLAMA = "random Llama, 580 M"
SHORT = [Case(layer=9)]
TABLE = [
    Case(layer=9),
    Case(layer=5),
    Case("MEMIT", layer=9),
    Case("PMET", layer=5),
    Case(model=LLAMA, layer=4),
]
GROWTH = [
    *(Case(contexts=contexts, tokens=32) for contexts in (1, 2, 4, 8, 16, 32)),
    *(Case(contexts=8, tokens=tokens) for tokens in (16, 64, 128, 256, 512)),
]
MEMORY = [Case(contexts=8, tokens=tokens) for tokens in (32, 256)]


def compare(case: Case, arms: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Time the arms in turns, and count their operations."""
    model, tokenizer = load_model(case.model)
    loop = Loop(case, model, tokenizer, steps)
    short = Loop(case, model, tokenizer, 2)
    for arm in arms:
        short.run(arm)  # fills caches and runs imports
    taken = in_turns(loop, arms, rounds)
    found: dict[str, Any] = {}
    for arm in arms:
        found[arm] = {
            "seconds": statistics.median(taken[arm]),
            "ratio": statistics.median(ratios(taken, arm)),
            "least": min(ratios(taken, arm)),
            "most": max(ratios(taken, arm)),
            "operations": operations(case, model, tokenizer, arm, steps),
        }
    plain = found["plain"]["operations"]
    for arm in arms:
        found[arm]["counted"] = found[arm]["operations"] / plain
    return found


def extrapolated(case: Case, arms: Sequence[str], steps: int) -> dict[str, Any]:
    """Return the seconds of an edit, extrapolated from its first steps.

    All steps after the first two take the same time.
    """
    model, tokenizer = load_model(case.model)
    few, more = (Loop(case, model, tokenizer, count) for count in (2, 5))
    found: dict[str, Any] = {}
    for arm in arms:
        few.run(arm)
        first = few.run(arm)
        step = (more.run(arm) - first) / 3
        found[arm] = {"seconds": first + (steps - 2) * step}
    for arm in arms:
        found[arm]["ratio"] = found[arm]["seconds"] / found["plain"]["seconds"]
    return found


def peak(case: Case, arm: str) -> float:
    """Return the most memory of an edit of three steps, without the model's, in MiB."""
    model, tokenizer = load_model(case.model)
    Loop(Case(contexts=1, tokens=12), model, tokenizer, 2).run(arm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Loop(case, model, tokenizer, 3).run(arm)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peaks(case: Case) -> dict[str, Any]:
    found = {}
    for arm in ARMS:
        command = [sys.executable, __file__, "--peak", json.dumps(asdict(case)), arm]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[arm] = {"MiB": float(done.stdout.splitlines()[-1])}
    for arm in ARMS:
        found[arm]["ratio"] = found[arm]["MiB"] / found["plain"]["MiB"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", help="only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "ARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(Case(**json.loads(options.peak[0])), options.peak[1]))
        return
    cases = SHORT
    for chosen, of in ((options.table, TABLE), (options.growth, GROWTH), (options.memory, MEMORY)):
        cases = of if chosen else cases
    for case in cases:
        if options.only and options.only not in str(case):
            continue
        if options.memory:
            found = peaks(case)
        elif options.growth:
            # At 512 tokens, the weights of all layers do not fit into the memory of a small
            # machine.
            arms = ["plain", "SADR"] + ["official way"] * (case.tokens <= 256)
            found = extrapolated(case, arms, options.steps)
        else:
            # The official way is timed with one loop on each model.
            arms = ARMS if options.table and case in (TABLE[0], TABLE[-1]) else ARMS[:4]
            found = compare(case, arms, options.rounds, options.steps)
        print(json.dumps({"case": asdict(case), "threads": torch.get_num_threads(), **found}))
        sys.stdout.flush()
        show(case, found)


def show(case: Case, found: dict[str, Any]) -> None:
    console = Console(stderr=True)
    console.print(str(case))
    for arm, values in found.items():
        figures = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        console.print(f"  {arm:20} {figures}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
