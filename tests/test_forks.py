"""A version of a toolkit that others carried on: some of what is declared for a class is another.

Once a class takes the flag, each of its functions is attached or refuses the flag.
"""

import dataclasses
import importlib
import inspect
import shutil
import sys
import warnings
from pathlib import Path

import pytest

import sadr_plugin
from sadr_plugin.errors import AttachmentError, ConfigError, SadrError
from sadr_plugin.patching import _attaching
from sadr_plugin.testing import registered
from smalledit.editor import optimise
from support import SMALL, SmallAdapter, attached_of, tiny_llama, word_tokenizer

HERE = Path(__file__).parent
HPARAMS = "forkedkit.hparams:SmallHparams"
PARAMETERS = tuple(inspect.signature(optimise).parameters)
REQUEST = {"prompt": "the {} is in", "subject": "tower", "target": "rome"}
DEFINED = (
    "def optimise(model, tok, request, hparams: SmallHparams, *, stop_below=0.0, on_step=None):"
)
OTHERS = {
    "one more": "def optimise(model, tok, request, hparams, more=1, stop_below=0, on_step=None):",
    "one less": "def optimise(model, tok, request, hparams, stop_below=0):\n    on_step = None",
    "another order": "def optimise(tok, model, request, hparams, *, stop_below=0, on_step=None):",
    "another name": "def optimise(model, tok, request, config, *, stop_below=0, on_step=None):\n"
    "    hparams = config",
    "any": "def optimise(*args, **kwargs):\n"
    "    model, tok, request, hparams = args\n    stop_below, on_step = 0, None",
}


class ForkedAdapter(SmallAdapter):
    def __init__(self, parameters):
        super().__init__()
        self.points = tuple(
            dataclasses.replace(
                SMALL, function=f"forkedkit.{name}:optimise", hparams=HPARAMS, parameters=parameters
            )
            for name in ("first", "second")
        )


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A function that writes a toolkit with two functions, of which the second is another."""
    package = tmp_path / "forkedkit"
    package.mkdir()
    _attaching._toolkits._warned.clear()
    monkeypatch.syspath_prepend(tmp_path)
    source = (HERE / "smalledit" / "editor.py").read_text()
    assert DEFINED in source

    def write(second=None):
        (package / "__init__.py").write_text("")
        shutil.copy(HERE / "smalledit" / "hparams.py", package)
        (package / "first.py").write_text(source)
        second = DEFINED if second is None else second
        (package / "second.py").write_text(source.replace(DEFINED, second))
        importlib.invalidate_caches()

    yield write
    sadr_plugin.disable()
    for name in [name for name in sys.modules if name.partition(".")[0] == "forkedkit"]:
        del sys.modules[name]


def load(name):
    return importlib.import_module(f"forkedkit.{name}")


def load_all():
    return [load(name) for name in ("first", "second", "hparams")]


def edit(name, hparams):
    """Run an edit by one of the two functions. Return whether it had SADR."""
    model, tok = tiny_llama(), word_tokenizer()
    function = load(name).optimise
    if next(iter(inspect.signature(function).parameters)) == "tok":
        model, tok = tok, model
    with sadr_plugin.reports() as found:
        function(model, tok, REQUEST, hparams)
    return bool(found)


def refuses(name, hparams):
    """Whether a function refuses hparams before the first step, and takes plain ones."""
    with pytest.raises((AttachmentError, ConfigError), match=r"SMALL: forkedkit\.second:optimise"):
        edit(name, hparams)
    return edit(name, load("hparams").SmallHparams()) is False


@pytest.mark.parametrize(
    ("other", "parameters"),
    # Without declared parameters, the others fit.
    [*((other, PARAMETERS) for other in OTHERS), ("another name", None), ("any", None)],
)
@pytest.mark.parametrize("order", ["enabled", "imported", "second later"])
def test_a_function_with_another_signature(order, other, parameters, fork):
    fork(OTHERS[other])
    adapter = ForkedAdapter(parameters)
    with registered(adapter), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if order == "imported":
            load_all()
        sadr_plugin.enable()
        load("first")
        hparams = load("hparams").SmallHparams
        before = hparams(sadr=True) if order == "second later" else None
        load_all()
        assert attached_of("forkedkit") == [adapter.points[0]]
        for flagged in filter(None, (before, hparams(sadr=True), hparams(sadr={"gamma": 1}))):
            assert edit("first", flagged) is True
            assert refuses("second", flagged)
        importlib.reload(load("second"))
        assert refuses("second", hparams(sadr=True))
        told = [str(w.message) for w in warned if "SADR" in str(w.message)]
        assert len(told) == 1
        assert told[0].startswith("SADR is not attached to SMALL: forkedkit.second:optimise takes ")


@pytest.mark.parametrize("parameters", [PARAMETERS, None], ids=["parameters", "arguments"])
@pytest.mark.parametrize("second", ["def renamed(hparams):", "optimise = 3\ndef other(hparams):"])
@pytest.mark.parametrize("order", ["enabled", "imported"])
def test_a_function_that_is_missing(order, second, parameters, fork):
    """Whatever took its place would edit plainly."""
    fork(second)
    steps = [sadr_plugin.enable, load_all]
    with registered(ForkedAdapter(parameters)):
        first, then = steps if order == "enabled" else reversed(steps)
        first()
        with pytest.warns(UserWarning, match="SADR is not attached to SMALL: forkedkit.second:opt"):
            then()
        hparams = load("hparams").SmallHparams
        with pytest.raises(ConfigError, match="optimise is not a function of a module in the inst"):
            hparams(sadr=True)
        assert attached_of("forkedkit") == []
        assert edit("first", hparams()) is False


def test_a_function_that_turns_out_to_be_missing_later(fork):
    """Hparams that took the flag before are refused."""
    fork("def renamed(hparams):")
    with registered(ForkedAdapter(PARAMETERS)):
        sadr_plugin.enable()
        load("first")
        before = load("hparams").SmallHparams(sadr=True)
        assert edit("first", before) is True
        with pytest.warns(UserWarning, match="SADR is not attached to SMALL: forkedkit.second:opt"):
            load("second")
        with pytest.raises(SadrError, match="second:optimise is not a function of a module"):
            edit("first", before)


def test_a_module_that_is_missing(fork, tmp_path):
    fork()
    (tmp_path / "forkedkit" / "second.py").unlink()
    with registered(ForkedAdapter(PARAMETERS)):
        sadr_plugin.enable()
        load("first")
        message = r"there is no module forkedkit\.second for its function"
        _attaching._toolkits._warned.clear()
        with pytest.warns(UserWarning, match=message):
            sadr_plugin.enable()
        with pytest.raises(ConfigError, match=message):
            load("hparams").SmallHparams(sadr=True)


def test_both_functions_fit(fork):
    fork()
    adapter = ForkedAdapter(PARAMETERS)
    with registered(adapter):
        sadr_plugin.enable()
        load_all()
        hparams = load("hparams").SmallHparams(sadr=True)
        assert attached_of("forkedkit") == list(adapter.points)
        assert edit("first", hparams)
        assert edit("second", hparams)


def test_no_function_fits_any_more_after_a_reload(fork, tmp_path):
    """It is still the declared toolkit, and no stranger of the same name."""
    fork()
    with registered(ForkedAdapter(PARAMETERS)):
        sadr_plugin.enable()
        load_all()
        before = load("hparams").SmallHparams(sadr=True)
        for name in ("first", "second"):
            file = tmp_path / "forkedkit" / f"{name}.py"
            file.write_text(file.read_text().replace(DEFINED, OTHERS["one more"] + "\n"))
            with pytest.warns(
                UserWarning, match=f"SADR is not attached to SMALL: forkedkit.{name}"
            ):
                importlib.reload(load(name))
        for name in ("first", "second"):
            with pytest.raises(SadrError, match="made for"):
                edit(name, before)
            assert edit(name, load("hparams").SmallHparams()) is False
        with pytest.raises(ConfigError, match=r"sadr: not attached to SMALL: forkedkit\.first"):
            load("hparams").SmallHparams(sadr=True)
