"""A toolkit's modules are loaded again: by `importlib.reload`, by a new import, by IPython."""

import dataclasses
import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sadr_plugin
from sadr_plugin import hookimpl
from sadr_plugin.errors import ConfigError, UnsupportedLoopError
from sadr_plugin.patching._stand_in import StandIn
from sadr_plugin.testing import registered
from support import SMALL, SmallAdapter, attached_of, tiny_llama, word_tokenizer

HERE = Path(__file__).parent
POINT = dataclasses.replace(
    SMALL, function="savedkit.editor:optimise", hparams="savedkit.hparams:SmallHparams"
)
REQUEST = {"prompt": "the {} is in", "subject": "tower", "target": "rome"}
MAIN = """
from .editor import optimise
from .hparams import SmallHparams

def apply(*args, **kwargs):
    return optimise(*args, **kwargs)
"""


def make_kit(folder):
    """A toolkit in files of its own. Its main module holds the editor's function, too."""
    package = folder / "savedkit"
    package.mkdir()
    for name in ("hparams.py", "editor.py"):
        shutil.copy(HERE / "smalledit" / name, package)
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(MAIN)


class SavedAdapter(SmallAdapter):
    points = (POINT,)

    @hookimpl
    def sadr_hparams_base(self):
        return "savedkit.hparams:Hparams"


def modules():
    return tuple(sys.modules[f"savedkit.{name}"] for name in ("editor", "main", "hparams"))


def load():
    for name in ("editor", "main", "hparams"):
        importlib.import_module(f"savedkit.{name}")
    return modules()


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "savedkit"]:
        del sys.modules[name]


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A function that changes the text of one of the toolkit's modules."""
    make_kit(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def save(name, old="", new=""):
        file = tmp_path / "savedkit" / f"{name}.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    with registered(SavedAdapter()):
        load()
        yield save
        sadr_plugin.disable()
    forget()


def edit(function, hparams):
    """Run an edit. Return the loss of its first step, and whether it had SADR."""
    with sadr_plugin.reports() as found:
        _, losses = function(tiny_llama(), word_tokenizer(), REQUEST, hparams)
    return round(losses[0]), bool(found)


def check_edits(hparams, expected=3):
    """An edit through either module is the toolkit's own, and has SADR if it asks for it."""
    editor, main, _ = modules()
    assert POINT in sadr_plugin.attached()
    for function in (editor.optimise, main.optimise, main.apply):
        assert edit(function, hparams(sadr={"gamma": 1})) == (expected, True)
        assert edit(function, hparams()) == (expected, False)


LOUDER = ("loss = nll + decay", "loss = nll + decay + 10")


@pytest.mark.parametrize(
    "names", [["editor"], ["hparams"], ["main"], ["hparams", "main", "editor"]]
)
def test_reloaded_while_enabled(kit, names):
    sadr_plugin.enable()
    old = modules()[2].SmallHparams
    for _ in range(2):
        for name in names:
            importlib.reload(sys.modules[f"savedkit.{name}"])
        check_edits(modules()[2].SmallHparams)
        check_edits(old)
        check_edits(modules()[1].SmallHparams)


@pytest.mark.parametrize(
    "names", [["editor"], ["hparams"], ["main"], ["hparams", "main", "editor"]]
)
def test_reloaded_while_disabled(kit, names):
    """The main module may hold the function of before."""
    sadr_plugin.enable()
    sadr_plugin.disable()
    for name in names:
        importlib.reload(sys.modules[f"savedkit.{name}"])
    sadr_plugin.enable()
    check_edits(modules()[2].SmallHparams)
    check_edits(modules()[1].SmallHparams)


def test_reloaded_inside_a_block(kit):
    with sadr_plugin.enabled():
        for module in modules():
            importlib.reload(module)
        check_edits(modules()[2].SmallHparams)
    assert attached_of("savedkit") == []


@pytest.mark.parametrize("enabled", [True, False])
def test_forgotten_and_imported_anew(kit, enabled):
    sadr_plugin.enable()
    old_editor, old_main, old_hparams = modules()
    if not enabled:
        sadr_plugin.disable()
    forget()
    assert attached_of("savedkit") == []
    load()
    sadr_plugin.enable()
    assert modules()[0] is not old_editor
    for hparams in (modules()[2].SmallHparams, old_hparams.SmallHparams)[: 1 + enabled]:
        check_edits(hparams)
        if enabled:  # those who still hold the old modules
            assert edit(old_main.apply, hparams(sadr=True)) == (3, True)


def test_one_module_forgotten_and_imported_anew(kit):
    sadr_plugin.enable()
    del sys.modules["savedkit.editor"]
    assert attached_of("savedkit") == []
    importlib.import_module("savedkit.editor")
    check_edits(modules()[2].SmallHparams)


def test_what_disable_gives_back_is_what_reloading_alone_would_have_left(kit):
    """Each module its own function: no edit runs other code because of SADR."""
    editor, main, hparams = modules()
    first = editor.optimise
    sadr_plugin.enable()
    kit("editor", *LOUDER)
    importlib.reload(editor)
    assert edit(editor.optimise, hparams.SmallHparams()) == (13, False)
    assert edit(editor.optimise, hparams.SmallHparams(sadr=True)) == (13, True)
    assert edit(main.apply, hparams.SmallHparams()) == (3, False), "it holds the old function"
    with pytest.raises(UnsupportedLoopError, match="reload the modules that hold the function"):
        edit(main.apply, hparams.SmallHparams(sadr=True))
    old = vars(hparams.SmallHparams)["__init__"].__wrapped__
    importlib.reload(hparams)
    gc.collect()
    sadr_plugin.disable()
    assert main.optimise is first
    assert first.__globals__ is vars(editor)
    assert editor.optimise is not first
    assert type(editor.optimise) is type(first)
    assert main.SmallHparams.__init__ is old
    assert main.SmallHparams is not hparams.SmallHparams
    for cls in (main.SmallHparams, hparams.SmallHparams):
        assert "sadr" not in vars(cls)


def test_a_changed_loop_that_ran_before_runs_with_what_was_compiled_then(kit):
    """The main module still holds it, and no file has its text any more."""
    editor, main, hparams = modules()
    sadr_plugin.enable()
    check_edits(hparams.SmallHparams)
    kit("editor", *LOUDER)
    importlib.reload(editor)
    assert edit(main.apply, hparams.SmallHparams(sadr=True)) == (3, True)
    assert edit(editor.optimise, hparams.SmallHparams(sadr=True)) == (13, True)
    importlib.reload(main)
    check_edits(hparams.SmallHparams, 13)


def test_a_reload_that_fails_halfway(kit):
    sadr_plugin.enable()
    before = modules()[2].SmallHparams(sadr=True)
    kit("editor", "def no_backward", "raise OSError('no')\n\n\ndef no_backward")
    with pytest.raises(OSError, match="no"):
        importlib.reload(modules()[0])
    assert edit(modules()[0].optimise, before) == (3, True)
    check_edits(modules()[2].SmallHparams)


def test_a_reload_that_takes_the_function_away(kit):
    """Hparams of before are refused by what took its place in another module."""
    sadr_plugin.enable()
    editor, main, hparams = modules()
    before = hparams.SmallHparams(sadr=True)
    kit("editor", "def optimise(", "def optimize(")
    vars(editor).clear()
    vars(editor).update(__name__="savedkit.editor", __package__="savedkit")
    reason = "savedkit.editor:optimise is not a function of a module"
    with pytest.warns(UserWarning, match=f"SADR is not attached to SMALL: {reason}"):
        importlib.reload(sys.modules["savedkit.editor"])
    assert attached_of("savedkit") == []
    with pytest.raises(ConfigError, match=f"sadr: not attached to SMALL: {reason}"):
        hparams.SmallHparams(sadr=True)
    with pytest.raises(ConfigError, match=f"sadr: not attached to SMALL: {reason}"):
        edit(main.apply, before)
    assert edit(main.apply, hparams.SmallHparams()) == (3, False)


def own(model, tok, request, hparams, *, stop_below=0.0, on_step=None):
    """A user's own version of the loop."""
    delta, losses = torch.zeros(32, requires_grad=True), []
    for _ in range(2):
        loss = (delta - 5).norm()
        losses.append(loss.item())
        loss.backward()
    return delta, losses


def plain(model, tok, request, hparams):
    return None, [7.0]


@pytest.mark.parametrize("place", ["editor", "main"])
def test_a_function_that_the_user_replaces(kit, place, monkeypatch):
    """SADR cannot see it. The next flag that is set, or `enable`, finds it."""
    sadr_plugin.enable()
    hparams = modules()[2].SmallHparams
    module = sys.modules[f"savedkit.{place}"]
    for replacement in (own, plain):
        monkeypatch.setattr(module, "optimise", replacement)
        assert POINT not in sadr_plugin.attached()
        assert module.optimise is replacement
        flagged = hparams(sadr=True)
        assert type(module.optimise) is StandIn
        assert edit(module.optimise, hparams())[1] is False
        message = "no forward of the SMALL" if replacement is own else "found 0"
        with pytest.raises(sadr_plugin.SadrError, match=message):
            edit(module.optimise, flagged)
        monkeypatch.setattr(module, "optimise", replacement)
        sadr_plugin.enable()
        assert type(module.optimise) is StandIn
        assert POINT in sadr_plugin.attached()
    del flagged
    gc.collect()
    sadr_plugin.disable()
    assert module.optimise is plain


def test_a_class_that_a_reloader_has_overwritten(kit):
    """IPython writes the new class's attributes into the old one."""
    sadr_plugin.enable()
    cls = modules()[2].SmallHparams
    cls.__dataclass_fields__ = dict(cls.__dataclass_fields__)
    cls.__repr__ = object.__repr__
    hparams = cls(sadr={"gamma": 1})
    assert dataclasses.replace(hparams, layer=2).sadr == {"gamma": 1}
    assert "sadr={'gamma': 1}" not in repr(cls())
    fields = dict(cls.__dataclass_fields__)
    del hparams
    sadr_plugin.disable()
    assert cls.__dataclass_fields__ == fields
    assert cls.__repr__ is object.__repr__
    assert "sadr" not in vars(cls)


def in_a_notebook(folder, mode, with_sadr):
    """The edits of `reloading_notebook`, by what was saved before them."""
    folder = folder / f"{mode}-{with_sadr}"
    folder.mkdir()
    make_kit(folder)
    script = HERE / "reloading_notebook.py"
    done = subprocess.run(
        [sys.executable, str(script), str(folder), mode, "sadr" if with_sadr else "plain"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={
            **os.environ,
            "IPYTHONDIR": str(folder / "ipython"),
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "autoreload" not in done.stderr, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mode", ["2", "2-"])
def test_in_a_notebook_with_autoreload(mode, tmp_path):
    """Plain edits are what they are without SADR, and those with the flag have SADR.

    2 writes new code into the functions that are there. 2- also loads the module anew.
    """
    pytest.importorskip("IPython", reason="IPython is not installed here")
    alone = in_a_notebook(tmp_path, mode, False)
    together = in_a_notebook(tmp_path, mode, True)
    assert list(together) == list(alone)
    for saved, edits in together.items():
        plain_edits = [edit for edit, had_sadr in edits if not had_sadr]
        assert plain_edits == [edit for edit, _ in alone[saved]], saved
        assert [edit for edit, had_sadr in edits if had_sadr] == plain_edits, saved
    assert {edit for edits in alone.values() for edit, _ in edits} == {3, 13, 23}
