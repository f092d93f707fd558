"""The editor. It does not use SADR."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Hparams:
    """Settings of one edit."""

    layer: int = 1
    steps: int = 6
    lr: float = 0.5
    decay: float = 0.01
    layer_template: str = "model.layers.{}"


def find_vectors(
    model: Any, tokenizer: Any, request: Mapping[str, Any], hparams: Hparams
) -> list[Tensor]:
    """Find two vectors that change the model's answer.

    One is added to the output of a layer's attention, the other to the output of its MLP, both at
    the subject's token.

    Args:
        model: a language model of transformers.
        tokenizer: the model's tokenizer. It pads on the left.
        request: ``prompts``, each with ``{}`` for the subject; the ``subject``; the ``target``.
        hparams: the settings of the edit.
    """
    prompts = [prompt.format(request["subject"]) for prompt in request["prompts"]]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    target = tokenizer(request["target"], add_special_tokens=False)["input_ids"][0]
    rows = torch.arange(len(prompts))
    # The padding is on the left, so every prompt ends in the last column.
    subject = torch.tensor(
        [
            len(tokenizer(prompt.split("{}")[1])["input_ids"]) if prompt.split("{}")[1] else 0
            for prompt in request["prompts"]
        ]
    )
    subject = batch["input_ids"].shape[1] - 1 - subject

    layer = model.get_submodule(hparams.layer_template.format(hparams.layer))
    size = model.config.hidden_size
    vectors = [torch.zeros(size, requires_grad=True) for _ in range(2)]

    def adding(vector: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[rows, subject] = hidden[rows, subject] + vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    hooks = [
        module.register_forward_hook(adding(vector))
        for module, vector in zip((layer.self_attn, layer.mlp), vectors, strict=True)
    ]
    optimizer = torch.optim.Adam(vectors, lr=hparams.lr)
    try:
        for _ in range(hparams.steps):
            optimizer.zero_grad()
            logits = model(**batch).logits[:, -1]
            miss = -logits.log_softmax(-1)[:, target].mean()
            size_of_vectors = sum(vector.norm() for vector in vectors)
            loss = miss + hparams.decay * size_of_vectors
            if loss < 0.05:
                break
            loss.backward()
            optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
    return [vector.detach() for vector in vectors]
