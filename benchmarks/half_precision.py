"""How far reuse moves the vector of an edit in bfloat16, beside what rounding alone does.

    python benchmarks/half_precision.py    # ROME on SmolLM2, layer 9; two minutes on two cores

The script prints the relative difference of two vectors, for several numbers of steps: of bfloat16
to float32, with reuse and without; of bfloat16 with reuse to that without; and of bfloat16 to
itself after the last bits of one weight matrix were changed at random.
"""

from __future__ import annotations

import torch
from loops import Case, Loop, load_model
from rich.console import Console
from rich.table import Table
from torch import Tensor

CASE = Case(layer=9, contexts=4, tokens=15)
CHANGED = "model.layers.29.mlp.down_proj.weight"
STEPS = (3, 10, 15)
RATE = 0.1


def vector(steps: int, dtype: torch.dtype, arm: str, changed: bool = False) -> Tensor:
    """Return the vector that an edit finds, in float32."""
    model, tokenizer = load_model("smollm2", dtype=dtype)
    if changed:
        weight = model.get_parameter(CHANGED)
        draw = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            weight.mul_(1 + (2 * draw - 1).to(dtype) * torch.finfo(dtype).eps)
    loop = Loop(CASE, model, tokenizer, steps, RATE)
    loop.run(arm)
    return loop.found.detach().float()


def difference(found: Tensor, expected: Tensor) -> str:
    return f"{((found - expected).norm() / expected.norm()).item():.1e}"


def main() -> None:
    table = Table("steps", "bfloat16, float32", "with reuse, float32", "reuse", "last bits changed")
    for steps in STEPS:
        exact = vector(steps, torch.float32, "SADR, reuse: false")
        alone = vector(steps, torch.bfloat16, "SADR, reuse: false")
        reused = vector(steps, torch.bfloat16, "SADR")
        moved = vector(steps, torch.bfloat16, "SADR, reuse: false", changed=True)
        pairs = ((alone, exact), (reused, exact), (reused, alone), (moved, alone))
        table.add_row(str(steps), *(difference(*pair) for pair in pairs))
    Console().print(table)


if __name__ == "__main__":
    main()
