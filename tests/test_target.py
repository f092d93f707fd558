"""The probability of an edit's target, by hand, and by whatever tokens the target has."""

import dataclasses
import math

import pytest
import torch
from tokenizers.processors import TemplateProcessing

import smalledit.editor
from sadr_plugin import DriftProbe, Edit, Prompt
from sadr_plugin.attention._positions import locate, prompt_tokens
from sadr_plugin.errors import AttachmentError, ConfigError, PositionError
from sadr_plugin.method._stopping import (
    IGNORED,
    Target,
    check_target,
    labels_behind,
)
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import SMALL, spaced_tokenizer, word_tokenizer


@pytest.fixture
def edit(tiny_llama, word_tokenizer):
    prompt = Prompt.from_template("the {} is in", "tower")
    return Edit(tiny_llama, word_tokenizer, [prompt], 1, "model.layers.{}", target=" rome now")


def labels_in(edit, *texts):
    """The labels that `labels_behind` gives in a batch of ``texts``."""
    batch = edit.tokenizer(list(texts), padding=True, return_tensors="pt")
    prompts = prompt_tokens(edit)
    positions = locate(prompts, batch["input_ids"], batch["attention_mask"])
    return labels_behind(edit, prompts, batch["input_ids"], positions)


def test_over_the_targets_tokens_and_the_prompts():
    """Two prompts of which the second is padded on the left."""
    probabilities = torch.full((3, 5, 4), 0.25)
    probabilities[0, 2] = torch.tensor([0.1, 0.2, 0.4, 0.3])
    probabilities[0, 3] = torch.tensor([0.1, 0.2, 0.2, 0.5])
    probabilities[1, 3] = torch.tensor([0.1, 0.1, 0.7, 0.1])
    labels = torch.full((2, 5), IGNORED)
    labels[0, 2], labels[0, 3], labels[1, 3], labels[1, 4] = 2, 3, 2, 3
    target = Target(SMALL, labels, probabilities)
    found, likeliest = target.standing(probabilities.log())
    by_hand = (math.sqrt(0.4 * 0.5) + math.sqrt(0.7 * 0.25)) / 2
    assert found.item() == pytest.approx(by_hand, rel=1e-6)
    assert likeliest.item() == 1.0  # four equal ones: each is the likeliest
    probabilities[1, 4] = torch.tensor([0.3, 0.3, 0.2, 0.2])
    assert target.standing(probabilities.log())[1].item() == 0.5


def test_labels_begin_at_the_prediction_position(edit, word_tokenizer):
    rome, now = word_tokenizer.convert_tokens_to_ids(["rome", "now"])
    none = IGNORED
    # The target's last token may be in the batch or not.
    assert labels_in(edit, "the tower is in rome").tolist() == [[none] * 3 + [rome, now]]
    assert labels_in(edit, "the tower is in rome now").tolist() == [[none] * 3 + [rome, now, none]]


def test_another_target_behind_the_prompt(edit):
    with pytest.raises(PositionError, match=r"tokens \[10\] of the target .* found \[11\]"):
        labels_in(edit, "the tower is in paris")


def test_no_target_is_refused_before_the_first_step(edit):
    check_target(SMALL, edit)
    check_target(
        dataclasses.replace(SMALL, labels="labels"), dataclasses.replace(edit, target=None)
    )
    with pytest.raises(ConfigError, match="adapter of SMALL does not say"):
        check_target(SMALL, dataclasses.replace(edit, target=None))
    with pytest.raises(ConfigError, match="'' has no tokens"):
        labels_in(dataclasses.replace(edit, target=""), "the tower is in")


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([1, 2]), torch.ones(1, 9, dtype=torch.long), torch.full((1, 3), IGNORED)],
    ids=["flat", "too wide", "empty"],
)
def test_labels_of_another_form(labels):
    point = dataclasses.replace(SMALL, labels="targets")
    with pytest.raises(AttachmentError, match="SMALL's variable 'targets' of shape"):
        Target(point, labels, torch.zeros(2, 3, 4))
    Target(point, torch.tensor([[IGNORED, 2, 3]]), torch.zeros(2, 3, 4))


def test_a_first_space_of_its_own(edit):
    """Alone the target has a token that it does not have behind the prompt."""
    tokenizer = spaced_tokenizer()
    alone = tokenizer(" rome")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone) == ["▁", "▁rome"]
    labels = labels_in(
        dataclasses.replace(edit, tokenizer=tokenizer, target=" rome"), "the tower is in"
    )
    assert labels.tolist() == [[IGNORED] * 3 + [alone[1]]]


def labelled(model, tok, request, hparams: SmallHparams):
    """A loop that has its target's tokens in a variable."""
    ids = tok([request["text"]], return_tensors="pt")["input_ids"]
    labels = torch.full_like(ids, IGNORED)
    labels[0, -1] = request["token"]
    delta = torch.zeros(model.config.hidden_size, requires_grad=True)
    add = model.model.layers[1].register_forward_hook(lambda m, i, o: _added(o, delta))
    try:
        for _ in range(hparams.v_num_grad_steps):
            logits = model(input_ids=ids).logits
            loss = -logits[0, -1].log_softmax(-1)[labels[0, -1]]
            loss.backward()
            with torch.no_grad():
                delta -= 0.5 * delta.grad
                delta.grad = None
    finally:
        add.remove()


def _added(output, delta):
    hidden = (output[0] if isinstance(output, tuple) else output).clone()
    hidden[0, 1] = hidden[0, 1] + delta
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def test_the_loops_own_labels_count(tiny_llama, word_tokenizer, monkeypatch):
    """Whatever the adapter says of the target besides, `stop_at` looks at what the loop aims at."""
    import sadr_plugin

    monkeypatch.setattr(smalledit.editor, "labelled", labelled, raising=False)
    prompt = Prompt.from_template("the {} is in", "tower")
    point = dataclasses.replace(
        SMALL,
        function="smalledit.editor:labelled",
        labels="labels",
        read=lambda given: Edit(
            given["model"], given["tok"], [prompt], 1, "model.layers.{}", target="city"
        ),
    )

    class Adapter:
        @sadr_plugin.hookimpl
        def sadr_edit_points(self):
            return [point]

    paris = word_tokenizer.convert_tokens_to_ids("paris")
    request = {"text": "the tower is in", "token": paris}
    ids = word_tokenizer(["the tower is in"], return_tensors="pt")["input_ids"]
    expected = tiny_llama(ids).logits[0, -1].softmax(-1)[paris].item()
    with registered(Adapter()), sadr_plugin.enabled(), sadr_plugin.reports() as found:
        hparams = SmallHparams(sadr={"stop_at": 1.0})
        smalledit.editor.labelled(tiny_llama, word_tokenizer, request, hparams)
    assert found[0].steps[0].target == pytest.approx(expected, rel=1e-5)
    assert found[0].steps[-1].target > expected


def test_a_tokenizer_that_ends_each_text_with_a_token(tiny_llama):
    """The end is behind the target in the loop's batch, and belongs to no prompt."""
    tokenizer = word_tokenizer()
    edit = Edit(
        tiny_llama,
        tokenizer,
        [Prompt("the ", "tower", " is in")],
        1,
        "model.layers.{}",
        target=" rome",
        edited_token="last",
    )
    found = []
    for ends in (False, True):
        if ends:
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
                single="$A <unk>", special_tokens=[("<unk>", 1)]
            )
        prompts = prompt_tokens(edit)
        batch = torch.tensor([tokenizer("the tower is in rome")["input_ids"]])
        positions = locate(prompts, batch, None)
        labels = labels_behind(edit, prompts, batch, positions)[:, :5].tolist()
        drift = DriftProbe(edit).positions.prediction.tolist()
        found.append((prompts, positions.prediction.tolist(), labels, drift))
    assert len(tokenizer("rome")["input_ids"]) == 2
    assert found[0] == found[1]
