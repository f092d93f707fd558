"""What SADR adds to an edit: EasyEdit's ROME loop on SmolLM2-135M, paired runs in one process.

    python benchmarks/edit_overhead.py [--rounds 5] [--steps 20]

Each round runs the loop plain and with SADR, in turns, so that whatever else the machine does
falls on both. Prints each arm's median and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time

import torch

import sadr_plugin
from sadr_easyedit import smollm2
from sadr_easyedit.devices import cuda_or_cpu
from sadr_easyedit.environment import import_text_only
from sadr_easyedit.smollm2 import rome_hparams

CONTEXTS = ["{}", "Then, he said that {}", "The quick fox. {}", "However {}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    import_text_only()
    sadr_plugin.enable()
    from easyeditor.models.rome import rome_main

    model, tokenizer = smollm2.load()
    hparams = rome_hparams(layer=9, steps=options.steps)
    request = {
        "prompt": "{} is located in the city of",
        "subject": "The Eiffel Tower",
        "target_new": " Rome",
    }

    def seconds(sadr: bool) -> float:
        hparams.sadr = {"gamma": 0.04} if sadr else False
        left = torch.ones(1536)
        started = time.perf_counter()
        with cuda_or_cpu(), contextlib.redirect_stdout(io.StringIO()):
            rome_main.compute_v(model, tokenizer, request, hparams, 9, left, CONTEXTS)
        return time.perf_counter() - started

    seconds(True), seconds(False)  # imports and caches
    rounds = []
    for index in range(options.rounds):
        order = (False, True) if index % 2 else (True, False)
        taken = {sadr: seconds(sadr) for sadr in order}
        rounds.append((taken[False], taken[True]))
        print(f"round {index + 1}: plain {taken[False]:.2f} s, with SADR {taken[True]:.2f} s")
    plain, sadr = (statistics.median(arm) for arm in zip(*rounds, strict=True))
    ratio = statistics.median(with_it / without for without, with_it in rounds)
    print(f"{options.steps} steps: plain {plain:.2f} s, with SADR {sadr:.2f} s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
