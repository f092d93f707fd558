"""Attaching SADR to a toolkit's editors, and detaching it."""

import copy
import dataclasses
import importlib
import importlib.util
import inspect
import pickle
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import FunctionType

import pytest

import sadr_plugin
import smalledit.editor
import smalledit.hparams
from sadr_plugin import EditPoint, hookimpl
from sadr_plugin.errors import ConfigError
from sadr_plugin.patching._imports import ImportWatch
from sadr_plugin.testing import registered
from smalledit.hparams import OtherHparams, SmallHparams
from support import SMALL


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


def test_a_stand_in_is_the_function_but_for_the_call(small_adapter):
    """What a reloader or the toolkit writes into it, it writes into the toolkit's function."""
    original = smalledit.editor.optimise
    sadr_plugin.enable()
    attached = smalledit.editor.optimise
    assert isinstance(attached, FunctionType)
    assert inspect.getsource(attached) == inspect.getsource(original)
    assert (attached.__name__, attached.__doc__) == (original.__name__, original.__doc__)
    assert attached.__code__ is original.__code__
    for copied in (copy.copy, copy.deepcopy):
        assert copied(attached) is attached
    attached.seen = 1
    assert original.seen == 1
    del attached.seen
    assert not hasattr(original, "seen")
    holder = type("Holder", (), {"method": attached})()
    assert holder.method.__self__ is holder
    assert "stand-in for <function optimise" in repr(attached)


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


def test_the_patch_tells_absent_from_none(small_adapter):
    class Odd(SmallHparams):
        sadr = None

    sadr_plugin.enable()
    assert Odd(sadr=True).sadr is True
    sadr_plugin.disable()
    assert vars(Odd)["sadr"] is None


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
    sadr_plugin.patching._attaching._toolkits._warned.clear()
    with pytest.warns(UserWarning, match=message):
        sadr_plugin.enable()
    assert SmallHparams(layer=3).layer == 3
    for hparams in (SmallHparams, Derived):
        with pytest.raises(ConfigError, match=message):
            hparams(sadr=True)


def test_a_base_that_is_not_there_does_not_stop_the_toolkit(declare):
    declare("smalledit.editor:optimise", base="smalledit.hparams:Gone")
    sadr_plugin.patching._attaching._toolkits._warned.clear()
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


def test_a_misspelt_hook_is_an_error():
    import pluggy

    class Misspelt:
        @hookimpl
        def sadr_edit_point(self):
            return []

    refused = pytest.raises(pluggy.PluginValidationError, match="sadr_edit_point")
    with registered(Misspelt()), refused:
        sadr_plugin.plugin_manager().check_pending()


@pytest.fixture
def watch():
    """A watch that notes the attribute of each module it is told of."""
    told = []
    watch = ImportWatch(lambda module: told.append(module.attribute))
    watch.told = told
    yield watch
    watch.stop()
    assert watch not in sys.meta_path


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_whose_import_has_begun(tmp_path, monkeypatch, watch, fails):
    (tmp_path / "underway.py").write_text(
        "import sys\n"
        "sys.begun({'underway'})\n"
        "attribute = 1\n" + ("raise OSError('no')\n" if fails else "")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "underway", raising=False)
    monkeypatch.setattr(sys, "begun", watch.start, raising=False)
    try:
        spec = importlib.import_module("underway").__spec__
        assert (type(spec), spec._initializing) == (ModuleSpec, False)
    except OSError:
        assert fails
    assert watch.told == ([] if fails else [1])
    sys.modules.pop("underway", None)


def test_imports_and_reloads_are_told_of(tmp_path, monkeypatch, watch):
    """Other finders see nothing of it, and the module has its own loader."""
    file = tmp_path / "watched.py"
    file.write_text("attribute = 1\nseen = __loader__, __spec__.loader\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "watched", raising=False)
    watch.start({"watched"})
    module = importlib.import_module("watched")
    loaders = [*module.seen, module.__loader__, module.__spec__.loader]
    assert {type(loader) for loader in loaders} == {SourceFileLoader}
    assert importlib.reload(module) is module
    assert type(module.__spec__.loader) is SourceFileLoader
    del sys.modules["watched"]
    assert importlib.import_module("watched") is not module
    assert watch.told == [1, 1, 1]
    file.write_text("attribute = 2\nraise OSError('no')")
    importlib.invalidate_caches()
    with pytest.raises(OSError, match="no"):
        importlib.reload(sys.modules["watched"])
    assert watch.told == [1, 1, 1, 2], "what was replaced stays so"
    del sys.modules["watched"]
    with pytest.raises(OSError, match="no"):
        importlib.import_module("watched")
    assert watch.told == [1, 1, 1, 2]
    watch.stop()
    file.write_text("attribute = 3")
    importlib.import_module("watched")
    assert watch.told == [1, 1, 1, 2]
    del sys.modules["watched"]


def test_a_finder_that_looks_a_watched_name_up_itself(tmp_path, monkeypatch, watch):
    """As wrapt's does."""
    (tmp_path / "asked.py").write_text("attribute = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    class Asking:
        asked = 0

        def find_spec(self, name, path=None, target=None):
            if name != "asked" or self.asked:
                return None
            self.asked += 1
            return importlib.util.find_spec(name)

    asking = Asking()
    for place in (0, 1):
        asking.asked = 0
        watch.start({"asked"})
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
        sys.meta_path.insert(place, asking)
        importlib.import_module("asked")
        assert asking.asked == 1
        del sys.modules["asked"]
        sys.meta_path.remove(asking)
    assert watch.told == [1, 1]


def test_a_function_in_a_module_that_does_not_exist(small_adapter, monkeypatch):
    """The flag would otherwise be accepted and do nothing."""
    wrong = dataclasses.replace(SMALL, function="smalledit.edtor:optimise")
    monkeypatch.setattr(type(small_adapter), "points", (wrong,))
    with pytest.warns(UserWarning, match=r"there is no module smalledit\.edtor for its function"):
        sadr_plugin.enable()
    with pytest.raises(ConfigError, match=r"there is no module smalledit\.edtor"):
        SmallHparams(sadr=True)
