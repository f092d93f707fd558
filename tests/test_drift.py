"""Edits with the small toolkit: the term in the loop, and what is left behind."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sadr_plugin
from sadr_plugin import DriftProbe, Edit, Prompt, hookimpl
from sadr_plugin.errors import (
    ConfigError,
    PenaltyError,
    PositionError,
    UnsupportedModelError,
)
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import attributes


def edit(small, model, tok, request, sadr=None, **options):
    hparams = SmallHparams(**({"sadr": sadr} if sadr is not None else {}))
    return small.optimise(model, tok, request, hparams, **options)


def test_without_the_flag_and_with_gamma_0_the_result_is_the_toolkits(
    small, small_adapter, tiny_llama, word_tokenizer, request_
):
    sadr_plugin.disable()
    delta, losses = small.optimise(tiny_llama, word_tokenizer, request_, SmallHparams())
    sadr_plugin.enable()
    for flag in (None, False, {"gamma": 0}):
        with_flag = edit(small, tiny_llama, word_tokenizer, request_, flag)
        assert torch.equal(with_flag[0], delta)
        assert with_flag[1] == losses
    (report,) = small_adapter.reports
    assert [step.loss for step in report.steps] == losses
    assert report.steps[-1].penalty > 0, "γ = 0 still measures"


def test_the_term_is_in_the_loss_and_restrains_drift(
    small, small_adapter, tiny_llama, word_tokenizer, request_
):
    _, free = edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0})
    _, held = edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 2.0})
    unrestrained, restrained = small_adapter.reports
    assert (restrained.editor, restrained.layer, restrained.gamma) == ("SMALL", 1, 2.0)
    # Up to the first selected head both take the same steps; there the losses part by the term.
    first = next(step.index for step in restrained.steps if step.selected)
    assert held[:first] == free[:first]
    step = restrained.steps[first]
    assert held[first] == pytest.approx(free[first] + 2 * step.penalty, rel=1e-6)
    assert step.loss == held[first] > free[first]
    assert 0 < step.selected < 1
    # And the gradient has it too.
    assert restrained.steps[-1].penalty < unrestrained.steps[-1].penalty / 2


def test_all_heads_layers_steps_and_default_gamma(
    small, small_adapter, tiny_llama, word_tokenizer, request_
):
    edit(small, tiny_llama, word_tokenizer, request_, True)
    edit(small, tiny_llama, word_tokenizer, request_, {"select_heads": False, "num_grad_steps": 2})
    edit(small, tiny_llama, word_tokenizer, request_, {"select_heads": False, "layers": [3]})
    default, every_head, last_layer = small_adapter.reports
    assert default.gamma == 0.5
    assert len(default.steps) == 6
    assert len(every_head.steps) == 2
    assert every_head.steps[1].selected == 1
    assert 0 < last_layer.steps[1].penalty < every_head.steps[1].penalty


def test_the_edit_stops_once_it_is_made(small, small_adapter, tiny_llama, word_tokenizer, request_):
    """As if the toolkit had been given that many steps; without the key it is only measured."""
    _, losses = edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0.1})
    edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0.1, "stop_at": 1})
    measured, whole = small_adapter.reports
    assert measured.steps == whole.steps
    reached = [step.target for step in whole.steps]
    best = reached.index(max(reached))
    assert best > 0
    flag = {"gamma": 0.1, "stop_at": reached[best]}
    stopped, printed = edit(small, tiny_llama, word_tokenizer, request_, flag)
    assert printed == losses[: best + 1]
    assert len(small_adapter.reports[2].steps) == best + 1
    # Of its own this toolkit goes back after its last loss, too.
    flag = {"gamma": 0.1, "num_grad_steps": best}
    assert torch.equal(stopped, edit(small, tiny_llama, word_tokenizer, request_, flag)[0])


def test_two_edits_in_a_row_do_not_know_of_each_other(small, tiny_llama, word_tokenizer, request_):
    first, losses = edit(small, tiny_llama, word_tokenizer, request_, True)
    second, again = edit(small, tiny_llama, word_tokenizer, request_, True)
    assert torch.equal(first, second)
    assert losses == again


class Interrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("error", [None, ValueError("toolkit"), Interrupt()])
@pytest.mark.parametrize("step", [0, 2])
def test_the_model_is_left_as_the_toolkit_alone_leaves_it(
    small, tiny_llama, word_tokenizer, request_, error, step
):
    alone = copy.deepcopy(tiny_llama)
    sadr_plugin.disable()
    small.optimise(alone, word_tokenizer, request_, SmallHparams())
    sadr_plugin.enable()
    before, weights = attributes(tiny_llama), copy.deepcopy(tiny_llama.state_dict())

    def break_off(at):
        if at == step and error is not None:
            raise error

    if error is None:
        edit(small, tiny_llama, word_tokenizer, request_, True)
    else:
        with pytest.raises(type(error)) as caught:
            edit(small, tiny_llama, word_tokenizer, request_, True, on_step=break_off)
        assert caught.value is error
        assert caught.value.__cause__ is None
    assert attributes(tiny_llama) == before
    for name, weight in tiny_llama.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert [p.requires_grad for p in tiny_llama.parameters()] == [
        p.requires_grad for p in alone.parameters()
    ]
    copy.deepcopy(tiny_llama)
    pickle.dumps(tiny_llama)
    # And it can be edited again.
    edit(small, tiny_llama, word_tokenizer, request_, True)


def test_a_forward_of_the_models_own_is_given_back(small, tiny_llama, word_tokenizer, request_):
    own = tiny_llama.forward
    tiny_llama.forward = own
    edit(small, tiny_llama, word_tokenizer, request_, True)
    assert tiny_llama.__dict__["forward"] is own


def test_arguments_by_position_and_by_name(tiny_llama, word_tokenizer):
    from sadr_plugin import Edit, Prompt, SadrConfig
    from sadr_plugin.method._session import EditSession
    from support import SMALL

    prompt = Prompt.from_template("the {} is in", "tower")
    edit_ = Edit(tiny_llama, word_tokenizer, [prompt], 1, "model.layers.{}")
    hooks = sadr_plugin.plugin_manager().hook
    batch = word_tokenizer(["the tower is in"], return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with EditSession(SMALL, edit_, SadrConfig(), hooks) as session:
        tiny_llama(ids, mask, torch.arange(4)[None])
        session.add_terms(torch.zeros(()))
        tiny_llama(attention_mask=mask, input_ids=ids)
        session.add_terms(torch.zeros(()))
        tiny_llama(inputs_embeds=tiny_llama.get_input_embeddings()(ids))
        with pytest.raises(PositionError, match="no forward of the SMALL loop"):
            session.add_terms(torch.zeros(()))
    assert len(session.steps) == 2


def test_a_forward_that_gives_a_tuple(tiny_llama, word_tokenizer):
    """There is no probability of the target to see; only `stop_at` needs one."""
    from sadr_plugin import Edit, Prompt, SadrConfig
    from sadr_plugin.method._session import EditSession
    from support import SMALL

    prompt = Prompt.from_template("the {} is in", "tower")
    edit_ = Edit(tiny_llama, word_tokenizer, [prompt], 1, "model.layers.{}", target=" rome")
    hooks = sadr_plugin.plugin_manager().hook
    batch = word_tokenizer(["the tower is in"], return_tensors="pt")
    for config in (SadrConfig(), SadrConfig(stop_at=0.5)):
        with EditSession(SMALL, edit_, config, hooks) as session:
            tiny_llama(**batch, return_dict=False)
            if config.stop_at is None:
                session.add_terms(torch.zeros(()))
                assert session.steps[0].target is None
            else:
                with pytest.raises(UnsupportedModelError, match="returns no `logits`"):
                    session.add_terms(torch.zeros(()))


class OddAttention(nn.Module):
    def forward(self, hidden_states, **_):
        return hidden_states.cumsum(1), None


def test_errors_come_before_the_first_step(small, tiny_llama, word_tokenizer, request_):
    before, steps = attributes(tiny_llama), []

    def refused(error, message, sadr=True, request=request_, model=tiny_llama):
        with pytest.raises(error, match=message):
            edit(small, model, word_tokenizer, request, sadr, on_step=steps.append)

    refused(ConfigError, r"sadr.layers: 9 is outside LlamaForCausalLM", sadr={"layers": [9]})
    refused(ConfigError, r"no layer after the edited one \(1\)", sadr={"layers": "0-1"})
    refused(PositionError, "exactly once", request={**request_, "prompt": "rome is in"})
    refused(PositionError, "empty", request={**request_, "subject": ""})
    assert attributes(tiny_llama) == before
    tiny_llama.model.layers[2].self_attn = OddAttention()
    before = attributes(tiny_llama)
    refused(UnsupportedModelError, "LlamaForCausalLM is not supported: SADR cannot tell .* layer 2")
    assert steps == []
    assert attributes(tiny_llama) == before


def test_a_batch_that_is_not_the_prompts_is_an_error(
    small, tiny_llama, word_tokenizer, request_, monkeypatch
):
    from support import SMALL, read_small

    def misread(arguments):
        return read_small({**arguments, "request": {**request_, "prompt": "of {} is in"}})

    monkeypatch.setattr(type(SMALL), "read", property(lambda self: misread), raising=False)
    before = attributes(tiny_llama)
    with pytest.raises(
        PositionError, match=r"'of tower is in'.*in the last batch it was 'the tower"
    ):
        edit(small, tiny_llama, word_tokenizer, request_, True)
    assert attributes(tiny_llama) == before


class NanPenalty:
    @hookimpl
    def sadr_penalty(self, baseline, current):
        return (current - baseline).sum() * torch.nan


class OwnPenalty:
    @hookimpl
    def sadr_penalty(self, baseline, current):
        return (current - baseline).abs().sum()


def test_a_penalty_of_ones_own(small, small_adapter, tiny_llama, word_tokenizer, request_):
    with registered(OwnPenalty()):
        edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0})
    edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0})
    ours, published = small_adapter.reports
    assert ours.steps[1].penalty > published.steps[1].penalty == 0


def test_a_selection_of_ones_own(small, small_adapter, tiny_llama, word_tokenizer, request_):
    class FirstHead:
        @sadr_plugin.hookimpl
        def sadr_selected_heads(self, baseline):
            mask = torch.zeros(baseline.shape[:-1], dtype=bool)
            mask[..., 0] = True
            return mask

    with registered(FirstHead()):
        edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0})
    edit(small, tiny_llama, word_tokenizer, request_, {"gamma": 0, "select_heads": False})
    first, every = small_adapter.reports
    heads = tiny_llama.config.num_attention_heads
    assert {step.selected for step in first.steps[1:]} == {1 / heads}
    assert 0 < first.steps[-1].penalty < every.steps[-1].penalty


def test_nan_ends_the_edit(small, tiny_llama, word_tokenizer, request_):
    before = attributes(tiny_llama)
    with registered(NanPenalty()), pytest.raises(PenaltyError, match="nan at step 1"):
        edit(small, tiny_llama, word_tokenizer, request_, True)
    assert attributes(tiny_llama) == before


@pytest.mark.parametrize("select_heads", [True, False])
def test_nan_rows_name_layer_and_head(small, tiny_llama, word_tokenizer, request_, select_heads):
    head = tiny_llama.model.layers[2].self_attn.q_proj
    forwards = 0

    def poison(module, args, output):
        nonlocal forwards
        forwards += torch.is_grad_enabled()
        if forwards > 1:
            output = output.clone()
            output[..., 8:16] = torch.nan
        return output

    head.register_forward_hook(poison)
    with pytest.raises(PenaltyError, match="nan at step 1 in layer 2, head 1"):
        edit(small, tiny_llama, word_tokenizer, request_, {"select_heads": select_heads})


@pytest.mark.parametrize("lacks", ["padding token", "mask"])
def test_a_probe_with_a_tokenizer_that_does_not_pad(tiny_llama, word_tokenizer, lacks):
    prompts = [Prompt("the ", "tower", " is in"), Prompt("so then the ", "tower", " is in")]
    plain = copy.deepcopy(word_tokenizer)
    if lacks == "padding token":
        plain.pad_token = None
    else:
        plain.model_input_names = ["input_ids"]
    expected, found = (
        DriftProbe(Edit(tiny_llama, tokenizer, prompts, 1, "model.layers.{}"))
        for tokenizer in (word_tokenizer, plain)
    )
    torch.testing.assert_close(found.before, expected.before)
    assert found.positions.subject.tolist() == expected.positions.subject.tolist() == [1, 3]
