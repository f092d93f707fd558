"""The layer that an adapter says, and the one in which the editor adds its vector."""

import contextlib
import dataclasses
import warnings
from collections import OrderedDict

import pytest
import torch

import sadr_plugin
import smalledit.editor
from sadr_plugin import hookimpl
from sadr_plugin.errors import AttachmentError
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import SMALL, attributes, tiny_llama, word_tokenizer


class Adapter:
    """The small toolkit's adapter, with another layer."""

    def __init__(self, layer):
        self.layer = layer

    @hookimpl
    def sadr_edit_points(self):
        def read(arguments):
            return dataclasses.replace(SMALL.read(arguments), layer=self.layer)

        return [dataclasses.replace(SMALL, read=read)]


def edit(request, declared, layer, model=None, **sadr):
    """Edit ``layer`` with an adapter that says ``declared``."""
    hparams_flag = {"gamma": 1.0, **sadr}
    model = model or tiny_llama()
    with registered(Adapter(declared)), sadr_plugin.enabled():
        hparams = SmallHparams(layer=layer, sadr=hparams_flag)
        return smalledit.editor.optimise(model, word_tokenizer(), request, hparams)[0]


@pytest.mark.parametrize("sadr", [{}, {"reuse": False}, {"layers": [3]}, {"keep": True}])
@pytest.mark.parametrize(
    ("declared", "layer", "side"),
    [(0, 1, "above"), (0, 2, "above"), (0, 3, "above"), (1, 0, "below"), (2, 0, "below")],
)
def test_another_layer_than_the_edited_one(request_, declared, layer, side, sadr):
    """With reuse, such an edit would find a wrong vector, and without, restrict too little."""
    model = tiny_llama().requires_grad_(False)
    before = attributes(model)
    message = f"the vector of SMALL is added {side} layer {declared}, which is the edited layer by"
    with pytest.raises(AttachmentError, match=message):
        edit(request_, declared, layer, model, **sadr)
    assert attributes(model) == before


@contextlib.contextmanager
def embeddings_with_gradient(model):
    """As PEFT does it for gradient checkpointing."""
    hook = model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: output.requires_grad_(True)
    )
    yield
    hook.remove()


@contextlib.contextmanager
def a_weight_with_gradient(model):
    """As in a toolkit that does not freeze the model."""
    weight = model.model.embed_tokens.weight

    def thaw(module, args):
        weight.requires_grad_(True)

    hook = model.register_forward_pre_hook(thaw)
    yield
    hook.remove()


@contextlib.contextmanager
def a_forward_before_the_vector(model):
    """As in a toolkit that looks at the unedited model first, and leaves gradients on."""
    looked = []

    def look(module, args, kwargs):
        if not torch.is_grad_enabled() or looked:
            return
        looked.append(True)
        part = model.model.layers[1].mlp
        hooks, part._forward_hooks = part._forward_hooks, OrderedDict()
        module.forward(*args, **kwargs)
        part._forward_hooks = hooks

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    yield
    hook.remove()
    assert looked


@pytest.mark.parametrize(
    "odd", [embeddings_with_gradient, a_weight_with_gradient, a_forward_before_the_vector]
)
def test_the_edited_layer_is_not_doubted(request_, odd):
    expected = edit(request_, 1, 1)
    model = tiny_llama()
    with odd(model):
        found = edit(request_, 1, 1, model, reuse=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def said_of_the_token(request, reuse, edited_token="subject_last", side="right", **changes):
    """Return the warnings of an edit whose adapter declares ``edited_token``."""

    class Adapter:
        @hookimpl
        def sadr_edit_points(self):
            def read(arguments):
                edit = SMALL.read(arguments)
                return dataclasses.replace(edit, edited_token=edited_token, **changes)

            return [dataclasses.replace(SMALL, read=read)]

    tokenizer = word_tokenizer()
    tokenizer.padding_side = side
    flag = {"gamma": 1.0, "reuse": reuse}
    with registered(Adapter()), sadr_plugin.enabled(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        hparams = SmallHparams(sadr=flag, contexts=["so the {}", "{}"], v_num_grad_steps=4)
        smalledit.editor.optimise(tiny_llama(), tokenizer, request, hparams)
    return [str(warning.message) for warning in seen if "token" in str(warning.message)]


@pytest.mark.parametrize("reuse", [True, False])
def test_another_token_than_the_edited_one(request_, reuse):
    (said,) = said_of_the_token(request_, reuse, "subject_first_after_last")
    assert "SMALL adds its vector at the token 'tower'" in said
    assert "SADR watches 'is'" in said
    (said,) = said_of_the_token(request_, reuse, "last")
    assert "SADR watches 'in'" in said


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_edited_token_is_not_doubted(request_, reuse, side):
    assert said_of_the_token(request_, reuse, side=side) == []


def test_padding_on_the_left_is_warned_of_once(request_):
    """The message says what the cause is."""
    (said,) = said_of_the_token(request_, True, side="left", counts_from_left=True)
    assert "is padded on the left" in said
