"""The key `sadr` in the hparams classes of a toolkit."""

import copy
import dataclasses
import pickle
from collections import OrderedDict
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

import sadr_plugin
import smalledit.editor
import smalledit.hparams
from sadr_plugin import SadrConfig
from sadr_plugin.errors import ConfigError
from smalledit.hparams import OtherHparams, SmallHparams
from support import SMALL


def test_the_flag_in_constructor_yaml_and_attribute(small, tmp_path):
    assert SmallHparams().sadr is None
    assert SmallHparams(layer=2, sadr=False).sadr is False
    file = tmp_path / "small.yaml"
    file.write_text("layer: 2\nsadr:\n  gamma: 4e-2\n  layers: 2-3\n")
    hparams = SmallHparams.from_hparams(str(file))
    assert (hparams.layer, hparams.sadr) == (2, {"gamma": "4e-2", "layers": "2-3"})
    assert SmallHparams.from_hparams(path=str(file)) == hparams, "the toolkit's own name works"
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
    del made
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
        del given
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
    sadr_plugin.patching._attaching._toolkits._warned.clear()
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
