import copy
import dataclasses
import importlib
import inspect
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from importlib.machinery import ModuleSpec

import pytest
import torch
from pydantic import BaseModel

import sadr_plugin
import smalledit.editor
import smalledit.hparams
import support
from sadr_plugin import Edit, EditPoint, Prompt, SadrConfig, hookimpl
from sadr_plugin.attention._positions import Positions
from sadr_plugin.errors import AttachmentError, ConfigError, PositionError, UnsupportedLoopError
from sadr_plugin.method._probe import DriftProbe
from sadr_plugin.patching._imports import when_imported
from sadr_plugin.testing import registered
from smalledit.hparams import OtherHparams, SmallHparams
from support import SMALL, SmallAdapter


def test_enable_and_disable_any_number_of_times(small_adapter):
    functions = dict(vars(smalledit.editor))
    classes = {
        cls: dict(vars(cls)) for cls in (SmallHparams, OtherHparams, smalledit.hparams.Hparams)
    }
    for _ in range(2):
        sadr_plugin.enable()
        sadr_plugin.enable()
        assert SMALL in sadr_plugin.attached()
        attached = smalledit.editor.optimise
        assert attached is not functions["optimise"]
        assert inspect.signature(attached) == inspect.signature(functions["optimise"])
        assert pickle.loads(pickle.dumps(attached)) is attached
        sadr_plugin.disable()
        sadr_plugin.disable()
        assert vars(smalledit.editor) == functions
        for cls, own in classes.items():
            assert dict(vars(cls)) == own
        assert sadr_plugin.attached() == []


def test_the_context_manager_gives_back_what_was(small_adapter):
    original = smalledit.editor.optimise
    with sadr_plugin.enabled():
        attached = smalledit.editor.optimise
        assert attached is not original
        with sadr_plugin.enabled():
            pass
        assert smalledit.editor.optimise is attached
    assert smalledit.editor.optimise is original


def test_a_function_held_by_others_is_attached_and_given_back(small_adapter, monkeypatch):
    elsewhere = type(sys)("smalledit.elsewhere")
    elsewhere.theirs = original = smalledit.editor.optimise
    monkeypatch.setitem(sys.modules, "smalledit.elsewhere", elsewhere)
    sadr_plugin.enable()
    assert elsewhere.theirs is smalledit.editor.optimise is not original
    sadr_plugin.disable()
    assert elsewhere.theirs is original


def test_enabled_before_the_toolkit_is_imported(small_adapter, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("smalledit")]:
        monkeypatch.delitem(sys.modules, name)
    sadr_plugin.enable()
    assert SMALL not in sadr_plugin.attached()
    from smalledit import editor, hparams

    assert SMALL in sadr_plugin.attached()
    assert hasattr(editor.optimise, "__wrapped__")
    assert hparams.SmallHparams(sadr=True).sadr is True
    sadr_plugin.disable()
    assert not hasattr(editor.optimise, "__wrapped__")


def test_the_flag_in_constructor_yaml_and_attribute(small, tmp_path):
    assert SmallHparams().sadr is None
    assert SmallHparams(layer=2, sadr=False).sadr is False
    file = tmp_path / "small.yaml"
    file.write_text("layer: 2\nsadr:\n  gamma: 4e-2\n  layers: 2-3\n")
    hparams = SmallHparams.from_hparams(str(file))
    assert (hparams.layer, hparams.sadr) == (2, {"gamma": "4e-2", "layers": "2-3"})
    hparams.sadr = SadrConfig(gamma=1)
    assert hparams.sadr.gamma == 1
    assert hparams == SmallHparams(layer=2), "equality is the toolkit's"
    file.write_text("layer: 2\nsadr:\n  # gamma: 4e-2\n")
    with pytest.raises(ConfigError, match=r"small\.yaml: sadr: the key is empty"):
        SmallHparams.from_hparams(str(file))
    assert SmallHparams(sadr=None).sadr is None, "no file is read"


@pytest.mark.parametrize(
    "again",
    [
        dataclasses.replace,
        copy.copy,
        copy.deepcopy,
        lambda hparams: pickle.loads(pickle.dumps(hparams)),
        lambda hparams: SmallHparams(**dataclasses.asdict(hparams)),
    ],
    ids=["replace", "copy", "deepcopy", "pickle", "asdict"],
)
def test_the_flag_survives(small, again):
    flag = {"gamma": 0.5}
    assert again(SmallHparams(layer=2, sadr=flag)).sadr == flag
    assert again(SmallHparams(layer=2, sadr=False)).sadr is False
    assert again(SmallHparams(layer=2)).sadr is None
    assert dataclasses.replace(SmallHparams(sadr=flag), layer=3).sadr == flag
    assert dataclasses.replace(SmallHparams(sadr=flag), sadr=False).sadr is False


def test_without_a_flag_the_fields_are_the_toolkits(small):
    fields = set(SmallHparams.__annotations__)
    assert {field.name for field in dataclasses.fields(SmallHparams)} == fields
    assert dataclasses.asdict(SmallHparams()).keys() == fields
    assert dataclasses.asdict(SmallHparams(sadr=True)).keys() == fields | {"sadr"}


def test_a_subclass_made_while_sadr_is_enabled(small):
    """It keeps the flag as its base does, and nothing of it once SADR is disabled."""

    @dataclass
    class Made(SmallHparams):
        more: int = 1

    made = Made(more=2)
    made.sadr = {"gamma": 1}
    assert dataclasses.replace(made, layer=3).sadr == {"gamma": 1}
    assert "sadr={'gamma': 1}" in repr(made)
    sadr_plugin.enable()
    assert Made(sadr=True).sadr is True
    sadr_plugin.disable()
    assert "sadr" not in vars(Made)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sadr'"):
        Made(sadr=True)
    assert [field.name for field in dataclasses.fields(Made)][-1] == "more"
    sadr_plugin.enable()


@dataclass(slots=True)
class Slotted:
    steps: int = 1


@dataclass(frozen=True)
class Frozen:
    v_num_grad_steps: int = 6
    layer: int = 1
    contexts: tuple = ("{}",)
    lr: float = 2.0
    start: float = 0.0
    layer_module_tmp: str = "model.layers.{}"
    fact_token: str = "subject_last"


def test_hparams_with_slots_are_as_they_were_and_take_no_flag(monkeypatch, declared):
    monkeypatch.setattr(smalledit.hparams, "Slotted", Slotted, raising=False)
    declared(hparams="smalledit.hparams:Slotted")
    hparams = Slotted(2)
    assert repr(dataclasses.replace(hparams)) == "Slotted(steps=2)"
    assert dataclasses.asdict(hparams) == {"steps": 2}
    with pytest.raises(ConfigError, match="Slotted has __slots__ and no place for the flag"):
        Slotted(sadr=True)


class Plain(Frozen):
    """Not decorated, so it has no `__init__` of its own."""


class Keys(dict):
    pass


class Bare:
    lr = 1.0


class Named(Bare):
    def __new__(cls, lr=2.0, sadr=None):
        made = super().__new__(cls)
        made.lr = lr
        return made


class Settings(BaseModel):
    lr: float = 1.0


class OwnSettings(Settings):
    def __init__(self, **settings):
        super().__init__(**settings)


@pytest.mark.parametrize("hparams", [Plain, Keys, Bare, Named, OwnSettings])
def test_hparams_without_an_init_of_their_own(hparams, monkeypatch, declared):
    monkeypatch.setattr(smalledit.hparams, "Given", hparams, raising=False)
    own = dict(vars(hparams))
    declared(hparams="smalledit.hparams:Given")
    assert hparams(sadr={"gamma": 1}).sadr == {"gamma": 1}
    assert hparams().sadr is None
    if hparams is not Bare:
        given = hparams(lr=3.0, sadr=True)
        assert (given["lr"] if hparams is Keys else given.lr) == 3.0
        assert "sadr" not in (given if hparams is Keys else ())
    with pytest.raises(TypeError):
        Bare(lr=1)
    with pytest.raises(ConfigError, match=r"sadr\.gamma"):
        hparams(sadr={"gamma": -1})
    sadr_plugin.disable()
    assert dict(vars(hparams)) == own


def test_a_pydantic_model_that_would_drop_the_flag_is_refused(monkeypatch, declared):
    """`model_validate` ignores it."""
    monkeypatch.setattr(smalledit.hparams, "Settings", Settings, raising=False)
    with pytest.warns(UserWarning, match="SMALL: Settings is a pydantic model without an __init__"):
        declared(hparams="smalledit.hparams:Settings")
    assert Settings(lr=2).lr == 2
    with pytest.raises(ConfigError, match="not attached to SMALL: Settings is a pydantic model"):
        Settings(sadr=True)


@pytest.mark.parametrize("hparams", [dict, OrderedDict])
def test_a_class_of_python_itself_cannot_take_the_flag(hparams, small, monkeypatch, declared):
    """Its editor is left out, and all others are attached."""
    monkeypatch.setattr(smalledit.hparams, "Given", hparams, raising=False)
    sadr_plugin.patching._attaching._warned.clear()
    sadr_plugin.disable()
    message = f"not attached to MINE: {hparams.__name__} cannot take the flag; use a class of your"
    with pytest.warns(UserWarning, match=message):
        declared(
            editor="MINE", function="smalledit.editor:two_losses", hparams="smalledit.hparams:Given"
        )
    assert SMALL in sadr_plugin.attached()
    assert "MINE" not in [point.editor for point in sadr_plugin.attached()]
    assert SmallHparams(sadr=True).sadr is True
    assert "sadr" not in vars(Keys), "other subclasses are left alone"


def test_frozen_hparams(monkeypatch, declared, tiny_llama, word_tokenizer, request_):
    monkeypatch.setattr(smalledit.hparams, "Frozen", Frozen, raising=False)
    declared(hparams="smalledit.hparams:Frozen")
    hparams = dataclasses.replace(Frozen(sadr={"gamma": 0, "num_grad_steps": 2}), lr=1.0)
    with sadr_plugin.reports() as found:
        smalledit.editor.optimise(tiny_llama, word_tokenizer, request_, hparams)
    assert len(found[0].steps) == 2


def test_the_flag_is_shown(small):
    plain = repr(SmallHparams(layer=2))
    assert "sadr" not in plain
    assert repr(SmallHparams(layer=2, sadr=True)) == plain[:-1] + ", sadr=True)"


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


TOWER = Prompt("the ", "tower", " is in")


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


def test_the_patch_tells_absent_from_none(small_adapter):
    class Odd(SmallHparams):
        sadr = None

    sadr_plugin.enable()
    assert Odd(sadr=True).sadr is True
    sadr_plugin.disable()
    assert vars(Odd)["sadr"] is None


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


def test_the_cache_is_named_by_settings_hooks_and_version(monkeypatch, declared):
    """Found with another penalty, a vector is another one."""
    seen = []

    def keeping(hparams, cache_template=None):
        seen.append(cache_template)

    keeping.__module__ = "smalledit.editor"
    monkeypatch.setattr(smalledit.editor, "keeping", keeping, raising=False)
    declared(cache="smalledit.editor:keeping")
    hparams = SmallHparams(sadr=True)

    def name():
        smalledit.editor.keeping(hparams, cache_template="z_{}.npz")
        return seen[-1]

    assert name() == name()
    assert re.fullmatch(r"z_\{\}\.sadr-[0-9a-f]{12}\.npz", name())
    published = name()

    class Own:
        def __init__(self, weight):
            self.weight = weight

        @hookimpl
        def sadr_penalty(self, current):
            return current.sum() * self.weight

    class Mean(Own):
        @hookimpl
        def sadr_penalty(self, current):
            return current.mean() * self.weight

    found = {published}
    for own in (Own(1), Own(2), Mean(1)):
        with registered(own):
            found.add(name())
    assert len(found) == 4, "by what a hook does, not by its bytecode alone"
    assert name() == published
    for own in ("plugin_version", "_own_source"):
        with monkeypatch.context() as patched:
            patched.setattr(f"sadr_plugin.patching._functions.{own}", lambda: "another")
            assert name() != published
    hparams.sadr = False
    assert name() == "z_{}.npz"


@pytest.fixture
def declared():
    """Attach the small toolkit's editor with another declaration."""
    adapters, manager = [], sadr_plugin.plugin_manager()

    def register(**changes):
        class Adapter(SmallAdapter):
            @hookimpl
            def sadr_edit_points(self):
                return [dataclasses.replace(SMALL, **changes)]

        adapters.append(Adapter())
        manager.register(adapters[-1])
        sadr_plugin.enable()

    yield register
    sadr_plugin.disable()
    for adapter in adapters:
        manager.unregister(adapter)


def test_a_bad_flag_names_key_and_file(small, tmp_path):
    with pytest.raises(ConfigError, match=r"sadr\.gamma"):
        SmallHparams(sadr={"gamma": -1})
    with pytest.raises(ConfigError, match="sadr: expected"):
        SmallHparams().sadr = "on"
    file = tmp_path / "small.yaml"
    file.write_text("sadr: {gamma: nan}\n")
    with pytest.raises(ConfigError, match=rf"{file}: sadr\.gamma: expected a finite number"):
        SmallHparams.from_hparams(str(file))
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        SmallHparams(other=1)


def test_a_value_is_never_code(small, tmp_path):
    marker = tmp_path / "ran"
    evil = f"__import__('pathlib').Path('{marker}').touch()"
    for value in ({"layers": evil}, {"gamma": evil}, {"divergence": evil}, evil):
        with pytest.raises(ConfigError):
            SmallHparams(sadr=value)
    assert not marker.exists()


def test_the_flag_for_an_editor_that_is_not_attached(small):
    with pytest.raises(ConfigError, match=r"no editor is attached for OtherHparams.*SMALL"):
        OtherHparams(sadr=True)
    with pytest.raises(ConfigError, match="no editor is attached"):
        OtherHparams(sadr=True, unknown=1)
    other = OtherHparams()
    with pytest.raises(ConfigError, match="no editor is attached"):
        other.sadr = {"gamma": 1}
    other.sadr = False
    assert OtherHparams(steps=3, sadr=None).steps == 3


def test_an_adapter_registered_while_sadr_is_enabled(declare, small):
    """Until then, its hparams refused the flag."""
    refused = pytest.raises(ConfigError, match="no editor is attached for OtherHparams")

    @dataclass
    class More(OtherHparams):
        more: int = 1

    with refused:
        OtherHparams(sadr=True)
    declare("smalledit.editor:optimise", hparams="smalledit.hparams:OtherHparams")
    sadr_plugin.enable()
    assert OtherHparams(sadr=True).sadr is True
    assert More(sadr=True).sadr is True
    sadr_plugin.disable()
    assert "sadr" not in {**vars(OtherHparams), **vars(More)}


@dataclass
class Derived(SmallHparams):
    more: int = 1


class Declares:
    def __init__(
        self,
        function,
        argument="hparams",
        base="smalledit.hparams:Hparams",
        hparams="smalledit.hparams:SmallHparams",
    ):
        self.point = EditPoint("X", function, hparams, 1, dict, hparams_argument=argument)
        self.base = base

    @hookimpl
    def sadr_edit_points(self):
        return [self.point]

    @hookimpl
    def sadr_hparams_base(self):
        return self.base


@pytest.fixture
def declare():
    manager, adapters = sadr_plugin.plugin_manager(), []

    def register(*arguments, **options):
        adapters.append(Declares(*arguments, **options))
        manager.register(adapters[-1])

    yield register
    sadr_plugin.disable()
    for adapter in adapters:
        manager.unregister(adapter)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        ("smalledit.editor:gone", "hparams", "gone is not a function of a module"),
        ("smalledit.editor:optimise", "config", "takes no argument 'config'"),
    ],
)
def test_what_cannot_be_attached_warns_and_refuses_the_flag(declare, function, argument, message):
    declare(function, argument)
    sadr_plugin.patching._attaching._warned.clear()
    with pytest.warns(UserWarning, match=message):
        sadr_plugin.enable()
    assert SmallHparams(layer=3).layer == 3
    for hparams in (SmallHparams, Derived):
        with pytest.raises(ConfigError, match=message):
            hparams(sadr=True)


def test_a_base_that_is_not_there_does_not_stop_the_toolkit(declare):
    declare("smalledit.editor:optimise", base="smalledit.hparams:Gone")
    sadr_plugin.patching._attaching._warned.clear()
    with pytest.warns(UserWarning, match="there is no class smalledit.hparams:Gone"):
        sadr_plugin.enable()
    assert SmallHparams(sadr=True).sadr is True


def test_overlapping_blocks(small_adapter):
    first, second = sadr_plugin.enabled(), sadr_plugin.enabled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert SMALL in sadr_plugin.attached()
    second.__exit__(None, None, None)
    assert SMALL not in sadr_plugin.attached()


def test_disable_inside_a_block_waits_for_its_end(small_adapter):
    sadr_plugin.enable()
    with sadr_plugin.enabled():
        sadr_plugin.disable()
        assert SMALL in sadr_plugin.attached()
        assert SmallHparams(sadr=True).sadr is True
    assert SMALL not in sadr_plugin.attached()


def test_a_block_that_fails_at_its_beginning_is_not_counted(small_adapter):
    class Failing:
        @hookimpl(trylast=True)
        def sadr_hparams_base(self):
            raise KeyboardInterrupt

    original = smalledit.editor.optimise
    with registered(Failing()), pytest.raises(KeyboardInterrupt), sadr_plugin.enabled():
        raise AssertionError("the block is not entered")
    assert smalledit.editor.optimise is original
    with sadr_plugin.enabled():
        assert SMALL in sadr_plugin.attached()
    assert SMALL not in sadr_plugin.attached()
    assert smalledit.editor.optimise is original


def test_subclasses_of_hparams(small_adapter):
    @dataclass
    class Before(SmallHparams):
        more: int = 1

    sadr_plugin.enable()
    assert Before(sadr=True, more=2).sadr is True

    @dataclass
    class After(SmallHparams):
        more: int = 1

    @dataclass
    class Unattached(smalledit.hparams.Hparams):
        more: int = 1

    after, unattached = After(), Unattached()
    after.sadr = {"gamma": 1}
    assert after.sadr == {"gamma": 1}
    del after.sadr
    assert after.sadr is None
    with pytest.raises(ConfigError, match="no editor is attached for Unattached"):
        unattached.sadr = True


def test_a_misspelt_hook_is_an_error():
    import pluggy

    class Misspelt:
        @hookimpl
        def sadr_edit_point(self):
            return []

    refused = pytest.raises(pluggy.PluginValidationError, match="sadr_edit_point")
    with registered(Misspelt()), refused:
        sadr_plugin.plugin_manager().check_pending()


def test_wrong_arguments_get_the_toolkits_own_complaint(small):
    with pytest.raises(TypeError, match=r"optimise\(\) missing 3 required positional arguments"):
        small.optimise(1)


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_whose_import_has_begun(tmp_path, monkeypatch, fails):
    told = []
    (tmp_path / "underway.py").write_text(
        "import sys\n"
        "sys.begun(sys.modules[__name__])\n"
        "attribute = 1\n" + ("raise OSError('no')\n" if fails else "")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "underway", raising=False)

    def begun(module):
        assert when_imported("underway", lambda module: told.append(module.attribute))

    monkeypatch.setattr(sys, "begun", begun, raising=False)
    try:
        spec = importlib.import_module("underway").__spec__
        assert (type(spec), spec._initializing) == (ModuleSpec, False)
    except OSError:
        assert fails
    assert told == ([] if fails else [1])
    sys.modules.pop("underway", None)


def test_a_module_that_is_imported_already_needs_no_waiting():
    assert not when_imported("sys", lambda module: None)


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


def test_a_function_in_a_module_that_does_not_exist(small_adapter, monkeypatch):
    """The flag would otherwise be accepted and do nothing."""
    wrong = dataclasses.replace(SMALL, function="smalledit.edtor:optimise")
    monkeypatch.setattr(type(small_adapter), "points", (wrong,))
    with pytest.warns(UserWarning, match=r"there is no module smalledit\.edtor for its function"):
        sadr_plugin.enable()
    with pytest.raises(ConfigError, match=r"there is no module smalledit\.edtor"):
        SmallHparams(sadr=True)
