"""The loops that `speed.py` and `gpu.py` time: an editor's own loop, run in five ways."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaForCausalLM

import sadr_plugin
from sadr_easyedit import smollm2
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_easyedit.environment import import_text_only
from sadr_easyedit.hparams_files import load_hparams
from sadr_plugin.attention._positions import locate, prompt_tokens
from sadr_plugin.devices import cuda_or_cpu
from sadr_plugin.method.penalty import drift_penalty, selected_heads
from sadr_plugin.patching._loop import with_loss_term

HPARAMS = Path(__file__).parent / "hparams"
GAMMA = 0.04
REQUEST = {"prompt": "{} is located in the city of", "subject": "The Eiffel Tower"}
FILLER = """the quick brown fox jumps over a lazy dog and runs away from it into the
wood""".split()  # noqa: SIM905

ARMS = ("plain", "SADR", "SADR and keep", "SADR, reuse: false", "official way")
"""The ways to run a loop.

- plain: the toolkit alone.
- SADR: the plugin with its defaults.
- SADR and keep: with `keep: true`.
- SADR, reuse: false: without reuse.
- official way: eager attention that returns the weights of every layer, as the official code reads
  them.
"""


@dataclass(frozen=True)
class Case:
    """A loop to time.

    Attributes:
        editor: ROME, MEMIT or PMET.
        model: ``"smollm2"``, or a name in `LLAMAS`.
        layer: the edited layer.
        contexts: the number of rewriting prompts.
        tokens: the number of tokens of the longest prompt, with its target.
    """

    editor: str = "ROME"
    model: str = "smollm2"
    layer: int = 9
    contexts: int = 21
    tokens: int = 21

    def __str__(self) -> str:
        return (
            f"{self.editor}, {self.model}, layer {self.layer}, {self.contexts} x {self.tokens} "
            "tokens"
        )


LLAMAS: dict[str, dict[str, Any]] = {
    "random Llama, small": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    # This model has 579 million parameters.
    "random Llama, 580 M": {
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 20,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "random Llama, Llama 3 8B's shape": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}


def load_model(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Return a model and SmolLM2's tokenizer."""
    model, tokenizer = smollm2.load()
    if name != "smollm2":
        config = {"vocab_size": model.config.vocab_size, **LLAMAS[name]}
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    return model.to(device, dtype), tokenizer


class Loop:
    """An editor's loop on a model."""

    def __init__(
        self, case: Case, model: nn.Module, tokenizer: Any, steps: int = 20, rate: float = 0.02
    ) -> None:
        import_text_only()
        sadr_plugin.enable()
        self.model, self.tokenizer, self.steps = model, tokenizer, steps
        self._case = case
        # PMET's first point is the one with both vectors.
        point = next(p for p in EDIT_POINTS if p.editor == case.editor)
        module, _, name = point.function.partition(":")
        self._module, self._name = importlib.import_module(module), name
        self._point = point
        self._hparams = load_hparams(HPARAMS / f"{case.editor.lower()}.yaml")
        layers: int = model.config.num_hidden_layers
        self._hparams.layers = [case.layer]
        self._hparams.v_loss_layer = layers - 1
        self._hparams.v_num_grad_steps = steps
        self._hparams.v_lr = rate  # the default is so low that no arm stops before its last step
        self._hparams.device = model.device if model.device.type == "cuda" else "cpu"
        if not smollm2._takes_device_names():
            self._hparams.device = 0
        self._contexts = contexts(tokenizer, case.contexts, case.tokens)

    def run(self, arm: str) -> float:
        """Run the loop once.

        Returns:
            The time in seconds.
        """
        ways: dict[str, Callable[[], float]] = {
            "plain": lambda: self._timed(self._dispatched, False),
            "SADR": lambda: self._timed(self._dispatched, {"gamma": GAMMA}),
            "SADR and keep": lambda: self._timed(self._dispatched, {"gamma": GAMMA, "keep": True}),
            "SADR, reuse: false": lambda: self._timed(
                self._dispatched, {"gamma": GAMMA, "reuse": False}
            ),
            "official way": self._official,
        }
        return ways[arm]()

    @property
    def _dispatched(self) -> Callable[..., Any]:
        return getattr(self._module, self._name)  # type: ignore[no-any-return]

    def _arguments(self, flag: Any) -> list[Any]:
        self._hparams.sadr = flag
        request = {**REQUEST, "target_new": " Rome"}
        arguments = [self.model, self.tokenizer, request, self._hparams, self._case.layer]
        if self._case.editor == "ROME":
            width = self.model.get_submodule(
                self._hparams.rewrite_module_tmp.format(self._case.layer)
            ).in_features
            left = torch.ones(width, device=self.model.device, dtype=self.model.dtype)
            return [*arguments, left, self._contexts]
        return [*arguments, [self._contexts]]

    def _timed(self, function: Callable[..., Any], flag: Any) -> float:
        arguments, printed = self._arguments(flag), io.StringIO()
        synchronize()
        started = time.perf_counter()
        with cuda_or_cpu(), contextlib.redirect_stdout(printed):
            self.found = function(*arguments)
        synchronize()
        seconds = time.perf_counter() - started
        steps = sum(line.startswith("loss") for line in printed.getvalue().splitlines())
        assert steps == self.steps, f"{steps} steps, not {self.steps}"
        return seconds

    def _official(self) -> float:
        function = inspect.unwrap(self._dispatched)
        assert isinstance(function, FunctionType)
        edit = self._point.read(
            dict(zip(inspect.signature(function).parameters, self._arguments(False), strict=False))
        )
        with KeptWeights(edit) as kept:
            return self._timed(with_loss_term(function, kept.add_penalty), False)


def in_turns(
    loop: Loop, arms: Sequence[str], rounds: int, after: Callable[[str], None] = lambda arm: None
) -> dict[str, list[float]]:
    """Return the seconds of each arm in each round. Every second round runs in reverse order.

    Args:
        loop: the loop.
        arms: the arms to run.
        rounds: the number of rounds.
        after: called with the arm after each run.
    """
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in track(range(rounds), "rounds", console=Console(stderr=True), transient=True):
        for arm in arms if number % 2 == 0 else reversed(arms):
            taken[arm].append(loop.run(arm))
            after(arm)
    return taken


def ratios(taken: dict[str, list[float]], arm: str) -> list[float]:
    """Return, for each round, the arm's seconds divided by the plain arm's seconds."""
    return [a / b for a, b in zip(taken[arm], taken["plain"], strict=True)]


class KeptWeights:
    """The drift penalty as the official code computes it: every layer returns all its weights."""

    def __init__(self, edit: Any) -> None:
        self._edit = edit
        self._prompts = prompt_tokens(edit)
        self._baseline: Tensor | None = None
        self._current: Any = None

    def __enter__(self) -> KeptWeights:
        model = self._edit.model
        self._implementation = model.config._attn_implementation
        model.config._attn_implementation = "eager"
        forward = model.forward

        def watched(**inputs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(**inputs)
            output = forward(**inputs, output_attentions=True)
            self._positions = locate(
                self._prompts, inputs["input_ids"], inputs.get("attention_mask")
            )
            self._current = output.attentions
            return output

        model.forward = watched
        return self

    def __exit__(self, *_: object) -> None:
        del self._edit.model.forward
        self._edit.model.config._attn_implementation = self._implementation

    def add_penalty(self, loss: Tensor) -> Tensor:
        assert self._positions is not None
        layers = self._current[self._edit.layer + 1 :]
        if self._baseline is None:
            # The official code also stores all layers.
            self._kept = [layer.detach().clone() for layer in self._current]
            self._baseline = self._rows(self._kept[self._edit.layer + 1 :])
            return loss
        rows = self._rows(layers)
        with torch.no_grad():
            selected = selected_heads(self._baseline, rows, self._positions.subject)
        penalty = drift_penalty(self._baseline, rows, selected)
        penalty.item()  # the official code prints it at each step
        return loss + GAMMA * penalty

    def _rows(self, layers: Sequence[Tensor]) -> Tensor:
        prompts = torch.arange(len(self._prompts))
        position = self._positions.prediction
        return torch.stack([layer[prompts, :, position].float() for layer in layers])


def contexts(tokenizer: Any, count: int, tokens: int) -> list[str]:
    """Return templates for rewriting prompts. The first is bare.

    Of the others, every second one is as long as the longest, and the rest are half as long.
    """
    bare = len(tokenizer(REQUEST["prompt"].format(REQUEST["subject"]))["input_ids"])
    room = max(tokens - bare - 1, 0)  # the 1 is for a full stop
    found = ["{}"] if count > 1 else []
    for number in range(count - len(found)):
        words = room if number % 2 == 0 else room // 2
        text = " ".join(FILLER[(number + i) % len(FILLER)] for i in range(words))
        found.append(f"{text}. {{}}" if words else "{}")
    return found


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of a block, forward and backward, by torch's table.

    Torch's own counter puts a hook on every module. With such hooks, the plugin reuses nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        output = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.count += count(*args, **(kwargs or {}), out_val=output)
        return output


def operations(case: Case, model: nn.Module, tokenizer: Any, arm: str, steps: int) -> float:
    """Return the number of operations of an edit, extrapolated from edits of 2 and 3 steps."""
    found = []
    for few in (2, 3):
        with Operations() as counter:
            Loop(case, model, tokenizer, few).run(arm)
        found.append(counter.count)
    return found[0] + (steps - 2) * (found[1] - found[0])


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
