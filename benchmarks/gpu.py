"""Time and memory of an edit on a CUDA GPU, for a model with the shape of Llama 3 8B.

    python benchmarks/gpu.py [--steps 20] [--rounds 5]

The script first checks that CUDA and CPU find the same vector, with a small model in float32. It
then times ROME's loop on the large model, which has random weights, in bfloat16. The arms take
turns in one process: without SADR, with it, with it and ``keep``, and with ``reuse: false``. Each
result is one line of JSON on standard output.

This command runs the same on a machine without CUDA:

    python benchmarks/gpu.py --device cpu --model "random Llama, small" --dtype float32
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch
from loops import ARMS, LLAMAS, Case, Loop, in_turns, load_model, ratios

SMALL = "random Llama, small"
LARGE = "random Llama, Llama 3 8B's shape"


def agreement(device: str) -> dict[str, Any]:
    """Return the relative distance between the vectors of the CPU and the device, in float32."""
    case = Case(model=SMALL, layer=1, contexts=4)
    found = {}
    for place in ("cpu", device):
        model, tokenizer = load_model(SMALL, place)
        for arm in ("plain", "SADR", "SADR, reuse: false"):
            loop = Loop(case, model, tokenizer, steps=10)
            loop.run(arm)
            found[place, arm] = loop.found.cpu().double()
    return {
        arm: ((found[device, arm] - found["cpu", arm]).norm() / found["cpu", arm].norm()).item()
        for arm in ("plain", "SADR", "SADR, reuse: false")
    }


def compare(model_name: str, device: str, dtype: torch.dtype, steps: int, rounds: int) -> Any:
    """Return the seconds and the peak memory of each arm."""
    layers: int = LLAMAS[model_name]["num_hidden_layers"]
    model, tokenizer = load_model(model_name, device, dtype)
    loop = Loop(Case(model=model_name, layer=layers // 6), model, tokenizer, steps)
    arms = ARMS[:4]
    for arm in arms:
        loop.run(arm)
    peaks = dict.fromkeys(arms, 0.0)

    def note_peak(arm: str) -> None:
        if torch.cuda.is_available():
            peaks[arm] = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    taken = in_turns(loop, arms, rounds, note_peak)
    return {
        arm: {
            "seconds": statistics.median(taken[arm]),
            "ratio": statistics.median(ratios(taken, arm)),
            "MiB": peaks[arm],
        }
        for arm in arms
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default=LARGE, choices=list(LLAMAS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu runs the same without one")
    print(json.dumps({"agreement with the CPU": agreement(options.device)}), flush=True)
    dtype = getattr(torch, options.dtype)
    found = compare(options.model, options.device, dtype, options.steps, options.rounds)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(json.dumps({"device": name, "model": options.model, "dtype": options.dtype, **found}))


if __name__ == "__main__":
    main()
