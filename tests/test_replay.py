"""Other prompts run with an edit's vector in place: the same numbers as in the loop itself."""

import contextlib
import threading

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import sadr_plugin
from sadr_plugin import Edit, Prompt
from sadr_plugin.attention._layers import Watch, layer_modules
from sadr_plugin.errors import (
    AttachmentError,
    PositionError,
    UnsupportedLoopError,
    UnsupportedModelError,
)
from sadr_plugin.models._architectures import ARCHITECTURES, build
from sadr_plugin.replay._replay import Replay, _by_length
from sadr_plugin.replay._vectors import Vectors
from sadr_plugin.reuse._reuse import reuse_for
from support import attributes, exists, spaced_tokenizer, tiny_llama, word_tokenizer

EDITED = 1
SUBJECT = "w17"
PROMPTS = [
    Prompt("w2 w3 ", SUBJECT, " w4 w5 w6"),
    Prompt("w5 w6 w7 ", SUBJECT, " w8 w9 w10 w11"),
    Prompt("w12 w13 w14 w15 w16 ", SUBJECT, ""),
]


def tokenizer_of(words, side="right"):
    names = ["<pad>", "<unk>", *(f"w{index}" for index in range(2, words))]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", padding_side=side
    )


class Loop:
    """One forward of a loop that adds a vector to what a module gives, in place."""

    def __init__(self, model, template, side="right", prompts=PROMPTS):
        self.model, self.prompts = model, prompts
        self.tokenizer = tokenizer_of(60, side)
        self.edit = Edit(model, self.tokenizer, prompts, EDITED, template)
        texts = [p.text for p in prompts]
        given = self.tokenizer(texts, padding=True, return_tensors="pt")
        self.batch = {name: given[name] for name in ("input_ids", "attention_mask")}
        self.subject = (self.batch["input_ids"] == 17).int().argmax(1)
        self.vector = torch.randn(
            model.config.hidden_size, generator=torch.Generator().manual_seed(3)
        ).requires_grad_()
        self.layer = layer_modules(model, template)[EDITED]
        self.vectors = Vectors(self.layer, "TEST")

    def add(self, _module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[torch.arange(len(hidden)), self.subject[: len(hidden)]] += self.vector

    def forward(self, *modules):
        """The loop's logits, [rows, tokens, vocabulary]."""
        with contextlib.ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_hook(self.add).remove)
            with self.vectors.watched(0, int(self.subject[0])):
                return self.model(**self.batch).logits

    def read(self, logits):
        """Of these, those from the edited token of each row on."""
        found = []
        for row, subject in enumerate(self.subject.tolist()):
            real = self.batch["attention_mask"][row].nonzero().flatten()
            found.append(logits[row, subject : int(real[-1]) + 1])
        return torch.cat(found)

    def replay(self, reuse=None, prompts=None):
        return Replay(self.edit, self.vectors, reuse, prompts or self.prompts)


def in_order(replay, values):
    """What was read, by the order of the prompts."""
    return values[replay.rows.argsort(stable=True)]


def places(architecture, model):
    """The layer, and its parts that give hidden states, [rows, tokens, size]."""
    layer = layer_modules(model, architecture.layers)[EDITED]
    found, hooks = [layer], []

    def note(module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        shape = getattr(hidden, "shape", ())
        if len(shape) == 3 and shape[-1] == model.config.hidden_size and shape[1] == 2:
            found.append(module)

    hooks = [child.register_forward_hook(note) for child in layer.children()]
    model(torch.tensor([[1, 2]]))
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.name)
def test_other_prompts_are_what_the_loop_computes(architecture, side):
    if not architecture.supported or not exists(architecture.model_type):
        pytest.skip("not an architecture of this transformers that SADR supports")
    model = build(architecture, "eager").requires_grad_(False)
    with torch.no_grad():
        modules = places(architecture, model)
    assert len(modules) > 2, "the layer, its attention and its MLP at least"
    watch = Watch(model, architecture.layers, EDITED)
    hooks = sadr_plugin.plugin_manager().hook
    for module in modules:
        loop = Loop(model, architecture.layers, side)
        with torch.no_grad():
            unedited = loop.read(model(**loop.batch).logits)
        expected = loop.read(loop.forward(module))
        (gradient,) = torch.autograd.grad(
            expected.log_softmax(-1)[:, 5].sum(), loop.vector, retain_graph=True
        )
        reusing = reuse_for(watch, hooks)
        try:
            reusing.fill()
            for reuse in (None, reusing.for_other_prompts):
                replay = loop.replay(reuse)
                before = in_order(replay, replay.before())
                assert torch.allclose(before, unedited, atol=2e-5)
                for _ in range(2):
                    now = in_order(replay, replay.now())
                    assert torch.allclose(now, expected, atol=5e-5)
                assert (now - before).abs().max() > 0.001, "the vector is in it"
                (found,) = torch.autograd.grad(
                    now.log_softmax(-1)[:, 5].sum(), loop.vector, retain_graph=True
                )
                assert (found - gradient).norm() <= 1e-4 * gradient.norm()
        finally:
            reusing.restore()


def test_two_vectors_each_in_its_place():
    """As PMET has them: the second module's input has the first one's vector in it."""
    model = tiny_llama().requires_grad_(False)
    model.resize_token_embeddings(60)
    loop = Loop(model, "model.layers.{}")
    modules = (loop.layer.self_attn, loop.layer.mlp)
    expected = loop.read(loop.forward(*modules))
    (gradient,) = torch.autograd.grad(expected.sum(), loop.vector, retain_graph=True)
    replay = loop.replay()
    now = in_order(replay, replay.now())
    assert torch.allclose(now, expected, atol=1e-5)
    (found,) = torch.autograd.grad(now.sum(), loop.vector)
    assert (found - gradient).norm() <= 1e-5 * gradient.norm()
    assert set(loop.vectors._added) == set(modules)


def big_llama():
    model = tiny_llama().requires_grad_(False)
    model.resize_token_embeddings(60)
    return model


def test_the_loops_own_hooks_are_silent_meanwhile():
    """A toolkit may leave its hook on the module: it adds its vector to any batch, where the
    loop's own has the subject."""
    loop = Loop(big_llama(), "model.layers.{}")
    with torch.no_grad():
        unedited = loop.read(loop.model(**loop.batch).logits)
    hook = loop.layer.mlp.register_forward_hook(loop.add)
    other = [Prompt("w30 w31 w32 ", SUBJECT, " w33")]
    with loop.vectors.watched(0, int(loop.subject[0])):
        expected = loop.read(loop.model(**loop.batch).logits)
    replay = loop.replay()
    assert torch.allclose(in_order(replay, replay.before()), unedited, atol=1e-5)
    assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)
    assert loop.replay(prompts=other).now().isfinite().all()
    assert list(loop.layer.mlp._forward_hooks) == [hook.id], "and it is there again"
    hook.remove()


def test_nothing_is_left_behind_when_it_fails():
    loop = Loop(big_llama(), "model.layers.{}")
    before = attributes(loop.model)
    loop.forward(loop.layer.mlp)
    replay = loop.replay()
    stop = loop.model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    for run in (replay.before, replay.now, lambda: loop.forward(loop.layer.mlp)):
        with pytest.raises(ZeroDivisionError):
            run()
    stop.remove()
    assert attributes(loop.model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loop.model.modules())


def test_a_vector_that_no_hook_adds_is_said_so():
    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward()
    with pytest.raises(UnsupportedLoopError, match="TEST: no forward hook was seen to add"):
        loop.vectors.length()


def test_the_vector_of_each_step():
    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward(loop.layer.mlp)
    replay = loop.replay()
    first = replay.now().detach()
    with torch.no_grad():
        loop.vector *= 2
    assert torch.equal(replay.now().detach(), first), "until the loop runs again"
    expected = loop.read(loop.forward(loop.layer.mlp))
    assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)
    assert loop.vectors.length() == pytest.approx(loop.vector.norm().item(), rel=1e-5)


def test_what_is_read_begins_where_it_is_asked_to():
    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward(loop.layer.mlp)
    prompt = Prompt("w5 w6 ", SUBJECT, " w8 w9. w10 w11")
    begin = len("w5 w6 w17 w8 w9.")
    replay = Replay(
        loop.edit, loop.vectors, None, [prompt, PROMPTS[0]], [begin, len("w2 w3 w17 w4 w5")]
    )
    # The last token of what comes before predicts the first of what is asked for.
    assert replay.rows.bincount().tolist() == [3, 2]
    whole = loop.replay(prompts=[prompt])
    mine = in_order(replay, replay.now())[:3]
    assert torch.allclose(mine, whole.now()[-3:], atol=1e-5)


def test_a_model_whose_head_is_not_known():
    """The logits are then cut when they are there."""
    loop = Loop(big_llama(), "model.layers.{}")
    expected = loop.read(loop.forward(loop.layer.mlp))
    loop.model.get_output_embeddings = lambda: None
    replay = loop.replay()
    assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)


def test_a_model_without_logits():
    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward(loop.layer.mlp)
    loop.edit.model.forward = lambda **_: object()
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM returns no `logits`"):
        loop.replay().now()


def test_prompts_of_two_lengths_are_put_together_again():
    loop = Loop(big_llama(), "model.layers.{}", prompts=[PROMPTS[1], Prompt("", SUBJECT, " w3")])
    expected = loop.read(loop.forward(loop.layer.mlp))
    replay = loop.replay()
    assert len(replay._batches) == 2
    assert replay.rows.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), spaced_tokenizer()])
def test_where_a_text_begins(tokenizer):
    from sadr_plugin.attention._positions import first_token_after, tokenize

    text = "then tower is in paris"
    tokens = tokenize(tokenizer, Prompt("then ", "tower", " is in paris"))
    for word in ("then", "is", "paris"):
        index = first_token_after(tokenizer, tokens, text.index(word))
        assert tokenizer.decode(tokens.ids[index]).strip() == word
        # The blank before it belongs to it.
        assert first_token_after(tokenizer, tokens, max(0, text.index(word) - 1)) == index
    assert first_token_after(tokenizer, tokens, len(text)) == len(tokens.ids)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([3, 3, 3], [[0, 1, 2]]),
        ([3, 20, 4], [[0, 2], [1]]),
        ([7], [[0]]),
        ([10, 9, 8, 9], [[2, 1, 3, 0]]),
    ],
)
def test_long_and_short_prompts_run_apart(lengths, groups):
    assert _by_length(lengths) == groups


def test_the_models_own_hooks_stay():
    """One that was there before the edit is a part of the model."""
    model = big_llama()
    mlp = model.model.layers[EDITED].mlp
    mlp.register_forward_hook(lambda module, args, output: output * 0.3)
    loop = Loop(model, "model.layers.{}")
    with torch.no_grad():
        unedited = loop.read(model(**loop.batch).logits)
    expected = loop.read(loop.forward(mlp))
    assert loop.vectors.length() == pytest.approx(loop.vector.norm().item(), rel=1e-5)
    replay = loop.replay()
    assert torch.allclose(in_order(replay, replay.before()), unedited, atol=1e-5)
    assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)


def test_any_number_of_runs_before_the_vector_moves():
    loop = Loop(big_llama(), "model.layers.{}")
    reusing = reuse_for(
        Watch(loop.model, "model.layers.{}", EDITED), sadr_plugin.plugin_manager().hook
    )
    reusing.fill()
    try:
        expected = loop.read(loop.forward(loop.layer.mlp))
        replay = loop.replay(reusing.for_other_prompts)
        for _ in range(6):
            replay.before()
        assert torch.allclose(in_order(replay, replay.now()), expected, atol=1e-5)
    finally:
        reusing.restore()


def test_a_tokenizer_that_ends_its_texts():
    """Its token for the end is none of the text's."""
    from tokenizers.processors import TemplateProcessing

    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward(loop.layer.mlp)
    plain = loop.replay(prompts=[PROMPTS[0]]).rows
    loop.tokenizer.eos_token = "w59"
    loop.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="$A w59", special_tokens=[("w59", 59)]
    )
    replay = loop.replay(prompts=[PROMPTS[0]])
    assert len(replay.rows) == len(plain)
    last = Replay(loop.edit, loop.vectors, None, [PROMPTS[0]], [len(PROMPTS[0].text)])
    assert torch.allclose(last.now(), replay.now()[-1:], atol=1e-5)
    whole = Replay(loop.edit, loop.vectors, None, [PROMPTS[0]], [0])
    assert len(whole.rows) == 6, "the first token is predicted by none"


def test_a_text_that_ends_with_a_special_token_of_its_own():
    loop = Loop(big_llama(), "model.layers.{}")
    loop.forward(loop.layer.mlp)
    prompts = [Prompt(PROMPTS[0].prefix, PROMPTS[0].subject, f"{PROMPTS[0].suffix} w59")]
    plain = loop.replay(prompts=prompts).rows
    loop.tokenizer.eos_token = "w59"
    assert len(loop.replay(prompts=prompts).rows) == len(plain)


def test_no_prompts():
    with pytest.raises(PositionError, match="an empty list of prompts"):
        Replay(Loop(big_llama(), "model.layers.{}").edit, None, None, [])


@pytest.mark.parametrize("prompts", ["w2 w17", ["w2 w17"], PROMPTS[0], [Prompt("w2 ", 17, "")]])
def test_something_else_than_prompts(prompts):
    with pytest.raises(AttachmentError, match=r"takes a list of Prompts with texts .* got "):
        Replay(Loop(big_llama(), "model.layers.{}").edit, None, None, prompts)


@pytest.mark.parametrize(
    ("read_from", "message"),
    [
        ([3], r"one number for each of the 3 prompts, got \[3\]"),
        (3, "one number for each of the 3 prompts, got 3"),
        ([3, 3, 300], "read_from holds 300 for the prompt 'w12 .* from 0 to 23, its length"),
        ([3, -1, 3], "read_from holds -1 for the prompt 'w5 "),
        ([3, "3", 3], "read_from holds '3' for the prompt 'w5 "),
    ],
)
def test_a_place_to_read_from_that_is_in_no_prompt(read_from, message):
    with pytest.raises(AttachmentError, match=message):
        Replay(Loop(big_llama(), "model.layers.{}").edit, None, None, PROMPTS, read_from)


def test_only_the_thread_that_runs_other_prompts_is_aside():
    """A forward of the loop in another thread still counts as the loop's."""
    vectors, seen = Vectors(torch.nn.Linear(1, 1), "X"), []
    with vectors.absent():
        thread = threading.Thread(target=lambda: seen.append(vectors.are_aside()))
        thread.start()
        thread.join()
        assert vectors.are_aside()
    assert seen == [False]
    assert not vectors.are_aside()
