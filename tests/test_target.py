"""The probability of an edit's target, by hand."""

import dataclasses
import math

import pytest
import torch

from sadr_plugin import Edit, Prompt
from sadr_plugin.errors import ConfigError, PositionError
from sadr_plugin.positions import Positions
from sadr_plugin.target import target_probability, target_tokens


@pytest.fixture
def edit(tiny_llama, word_tokenizer):
    prompt = Prompt.from_template("the {} is in", "tower")
    return Edit(tiny_llama, word_tokenizer, [prompt], 1, "model.layers.{}", target="rome now")


def test_over_the_targets_tokens_and_the_prompts():
    """Two prompts of which the second is padded on the left; the target's last token, 3, is not
    in the batch of the first and padded away in the second."""
    probabilities = torch.full((2, 5, 4), 0.25)
    probabilities[0, 2] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    probabilities[0, 3] = torch.tensor([0.1, 0.2, 0.2, 0.5])
    probabilities[1, 3] = torch.tensor([0.1, 0.1, 0.8, 0.0])
    input_ids = torch.tensor([[1, 1, 1, 2, 0], [0, 1, 1, 1, 2]])
    positions = Positions(torch.tensor([2, 3]), torch.tensor([1, 2]))
    found = target_probability(probabilities.log(), input_ids, positions, [2, 3])
    by_hand = (math.sqrt(0.4 * 0.5) + math.sqrt(0.8 * 0.25)) / 2
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_another_target_behind_the_prompt():
    positions = Positions(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(PositionError, match=r"tokens \[2\] of the target .* found \[3\]"):
        target_probability(torch.zeros(1, 3, 4), torch.tensor([[1, 1, 3]]), positions, [2, 3])


def test_tokens(edit, word_tokenizer):
    assert word_tokenizer.convert_ids_to_tokens(target_tokens(edit, "X")) == ["rome", "now"]
    with pytest.raises(ConfigError, match="adapter of X does not say"):
        target_tokens(dataclasses.replace(edit, target=None), "X")
    with pytest.raises(ConfigError, match="'' has no tokens"):
        target_tokens(dataclasses.replace(edit, target=""), "X")
