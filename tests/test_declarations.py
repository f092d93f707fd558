"""What an adapter declares and reads: what is wrong is refused, and says where."""

import dataclasses
import inspect
import warnings

import pytest
import torch

import sadr_plugin
import smalledit.editor
import smalledit.hparams
import support
from sadr_plugin import Edit, Prompt
from sadr_plugin.errors import AttachmentError, ConfigError, PositionError, UnsupportedLoopError
from sadr_plugin.method._probe import DriftProbe
from sadr_plugin.terms import Positions
from smalledit.hparams import SmallHparams
from support import SMALL

TOWER = Prompt("the ", "tower", " is in")


@pytest.mark.parametrize("flag", [True, {"num_grad_steps": 2}])
def test_a_wrong_steps_attribute_is_refused(flag, tiny_llama, word_tokenizer, request_, declared):
    """Before the first step, and not taken on as a new attribute that nothing reads."""
    declared(steps_attribute="steps")
    hparams, steps = SmallHparams(sadr=flag), []
    with pytest.raises(AttachmentError, match="SmallHparams has no attribute 'steps'"):
        smalledit.editor.optimise(
            tiny_llama, word_tokenizer, request_, hparams, on_step=steps.append
        )
    assert steps == []
    assert not hasattr(hparams, "steps")


def test_an_editor_without_a_number_of_steps(tiny_llama, word_tokenizer, request_, declared):
    declared(steps_attribute=None)
    with sadr_plugin.reports() as found:
        smalledit.editor.optimise(
            tiny_llama, word_tokenizer, request_, SmallHparams(sadr={"gamma": 0})
        )
    assert len(found[0].steps) == 6
    with pytest.raises(ConfigError, match="num_grad_steps: SMALL has no number of steps"):
        smalledit.editor.optimise(
            tiny_llama, word_tokenizer, request_, SmallHparams(sadr={"num_grad_steps": 2})
        )


@pytest.mark.parametrize("flag", [True, False, None])
def test_a_flag_in_another_argument_is_refused(
    flag, tiny_llama, word_tokenizer, request_, declared
):
    """The declared argument is there, so the function is attached."""
    declared(hparams_argument="request")
    hparams, steps = SmallHparams(sadr=flag), []

    def edit():
        smalledit.editor.optimise(
            tiny_llama, word_tokenizer, request_, hparams, on_step=steps.append
        )

    if not flag:
        edit()
        assert len(steps) == 6
        return
    where = "SMALL: smalledit.editor:optimise: its hparams are in the argument 'hparams', not in"
    with pytest.raises(AttachmentError, match=f"{where} 'request'; correct hparams_argument"):
        edit()
    assert steps == []


def test_hparams_inside_an_object_are_warned_of_once(
    tiny_llama, word_tokenizer, request_, declared
):
    declared(hparams_argument="request")
    held = {**request_, "hparams": SmallHparams(sadr=True)}

    def edit():
        smalledit.editor.optimise(tiny_llama, word_tokenizer, held, SmallHparams())

    with pytest.warns(UserWarning, match="'request' is of the class dict, which has no place for"):
        edit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edit()


def reading(**changes):
    return lambda arguments: dataclasses.replace(SMALL.read(arguments), **changes)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda arguments: None, "has to return an Edit, got None"),
        (lambda arguments: {"layer": 1}, r"has to return an Edit, got {'layer': 1}"),
        (reading(model="llama"), "whose model has to be a torch module, got 'llama'"),
        (reading(tokenizer=None), "whose tokenizer has to be a tokenizer, got None"),
        (
            reading(prompts=["so the tower"]),
            r"whose prompts has to be a list of Prompts with texts",
        ),
        (reading(prompts=[Prompt("so ", None, "")]), "whose prompts has to be a list of Prompts"),
        (reading(prompts=None), "whose prompts has to be a list of Prompts with texts, or a func"),
        (reading(prompts=lambda: "so"), "the prompts of an Edit, has to return a list of Prompts"),
        (reading(layer="1"), "whose layer has to be a whole number, got '1'"),
        (reading(layer_template=None), "whose layer_template has to be a text, got None"),
        (reading(edited_token=["last"]), r"whose edited_token has to be a text, got \['last'\]"),
        (reading(zero_start="no"), "whose zero_start has to be True or False, got 'no'"),
        (reading(counts_from_left=1), "whose counts_from_left has to be True or False, got 1"),
        (reading(target=["rome"]), r"whose target has to be a text or None, got \['rome'\]"),
        (reading(old_target=5), "whose old_target has to be a text or None, got 5"),
    ],
)
def test_what_read_returns_is_checked(
    read, message, tiny_llama, word_tokenizer, request_, declared
):
    declared(read=read)
    hparams, steps = SmallHparams(sadr={"keep": True, "stop_at": 0.5}), []
    with pytest.raises(AttachmentError, match=message) as caught:
        smalledit.editor.optimise(
            tiny_llama, word_tokenizer, request_, hparams, on_step=steps.append
        )
    assert f"{__name__}." in str(caught.value), "the adapter's function is named"
    assert steps == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda: {"prompts": [TOWER, Prompt("then the ", "tower", " is in")]},
            "row 1 of its batch should begin with 'then the tower is in', with the subject 'tower'"
            ".* in the last batch it was 'so the tower is in",
        ),
        (
            lambda: {"prompts": [TOWER] * 4},
            r"the edit has 4 prompts, and the last batch was of the shape \(3, 5\)",
        ),
        (
            lambda: {"model": support.tiny_llama()},
            "it made no call of the model with input_ids and gradients",
        ),
    ],
    ids=["another prompt", "more prompts", "another model"],
)
def test_a_loop_without_a_recognised_forward(
    changes, message, tiny_llama, word_tokenizer, request_, declared
):
    """The message says which of its prompts is not in the batch."""
    declared(read=lambda arguments: reading(**changes())(arguments))
    hparams = SmallHparams(sadr=True)
    with pytest.raises(PositionError, match="SMALL loop could be recognised: " + message):
        smalledit.editor.optimise(tiny_llama, word_tokenizer, request_, hparams)


def test_a_prompt_that_merges_with_its_target_has_no_baseline(tiny_llama, word_tokenizer):
    """Alone, it ends with another token than in the loop, and rows of two tokens differ."""
    edit = Edit(tiny_llama, word_tokenizer, [TOWER], layer=1, layer_template="model.layers.{}")
    probe = DriftProbe(edit)
    later = Positions(probe.positions.prediction + 2, probe.positions.subject + 2)
    longer = probe.before.new_zeros((*probe.before.shape[:-1], 9))
    assert torch.equal(probe.before_in(longer, later)[..., 2:6], probe.before)
    merged = Positions(probe.positions.prediction - 1, probe.positions.subject)
    with pytest.raises(PositionError, match="ends with another token before its target than alone"):
        probe.before_in(longer, merged)


def test_a_label_that_is_not_there_is_refused(tiny_llama, word_tokenizer, request_, declared):
    declared(labels="rewriting_targets")
    with pytest.raises(UnsupportedLoopError, match="a variable `rewriting_targets`"):
        smalledit.editor.optimise(tiny_llama, word_tokenizer, request_, SmallHparams(sadr=True))


@pytest.mark.parametrize(
    "parameters", [None, tuple(inspect.signature(smalledit.editor.optimise).parameters)]
)
def test_a_cache_may_lack_its_argument_only_with_parameters(monkeypatch, declared, parameters):
    """Of code that others carried on, one may have dropped the cache; elsewhere it is a fault."""

    def keeping(hparams):
        return "nothing kept"

    keeping.__module__ = "smalledit.editor"
    monkeypatch.setattr(smalledit.editor, "keeping", keeping, raising=False)
    if parameters is None:
        with pytest.warns(UserWarning, match="takes no argument 'cache_template'"):
            declared(cache="smalledit.editor:keeping")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declared(cache="smalledit.editor:keeping", parameters=parameters)
    assert SmallHparams(sadr=True).sadr is True
    assert "SMALL" in [point.editor for point in sadr_plugin.attached()]
    assert smalledit.editor.keeping is keeping
    assert smalledit.editor.keeping(SmallHparams(sadr=True)) == "nothing kept"


def test_an_edit_with_sadr_neither_reads_nor_writes_cached_vectors(monkeypatch, declared, caplog):
    """A file's name does not say how its vector was found."""
    seen = []

    def keeping(hparams, cache_template=None):
        seen.append(cache_template)

    keeping.__module__ = "smalledit.editor"
    monkeypatch.setattr(smalledit.editor, "keeping", keeping, raising=False)
    declared(cache="smalledit.editor:keeping")
    hparams = SmallHparams(sadr=True)
    caplog.set_level("INFO", logger="sadr_plugin")
    smalledit.editor.keeping(hparams, "z_{}.npz")
    smalledit.editor.keeping(hparams, cache_template="z_{}.npz")
    line = (
        "SADR: SMALL neither reads nor writes the cached vectors z_{}.npz, because their names do "
        "not tell how they were found"
    )
    assert caplog.messages == [line, line]
    smalledit.editor.keeping(hparams)
    smalledit.editor.keeping(hparams, None)
    hparams.sadr = False
    smalledit.editor.keeping(hparams, cache_template="z_{}.npz")
    assert seen == [None, None, None, None, "z_{}.npz"]
    assert len(caplog.messages) == 2


def test_wrong_arguments_get_the_toolkits_own_complaint(small):
    with pytest.raises(TypeError, match=r"optimise\(\) missing 3 required positional arguments"):
        small.optimise(1)


@pytest.mark.parametrize(
    "name", ["smalledit.editor.optimise", "smalledit.editor:", ":optimise", "m:Class.method"]
)
def test_a_name_of_another_form(name):
    expected = r'SMALL: expected "package\.module:name".*; a method cannot be declared'
    with pytest.raises(AttachmentError, match=expected):
        dataclasses.replace(SMALL, function=name)


@pytest.mark.parametrize("gamma", ["0.1", -2.0, float("nan"), float("inf"), None])
def test_a_gamma_that_is_no_weight(gamma):
    with pytest.raises(AttachmentError, match="SMALL: gamma has to be a number of at least 0, got"):
        dataclasses.replace(SMALL, gamma=gamma)


def test_a_read_that_is_no_function():
    with pytest.raises(AttachmentError, match="SMALL: read has to be a function, got 'read'"):
        dataclasses.replace(SMALL, read="read")
