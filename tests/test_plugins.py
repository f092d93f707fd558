"""Adapters found installed: one that is broken is named and left out, and takes no other along."""

import subprocess
import sys
import types

import pytest

from sadr_plugin import hookimpl, plugins
from sadr_plugin.testing import registered

ADAPTERS = {
    "not-importable": "import not_there",
    "raises": "raise ZeroDivisionError('on import')",
    "misspelt": """
from sadr_plugin import hookimpl
@hookimpl
def sadr_edit_point(): return []
""",
    "hook-raises": """
from sadr_plugin import hookimpl
@hookimpl
def sadr_edit_points(): return 1 / 0
""",
    "no-points": """
from sadr_plugin import hookimpl
@hookimpl
def sadr_edit_points(): return ["ROME"]
""",
}


@pytest.fixture
def installed(tmp_path):
    """A folder where a package with an adapter is installed."""

    def install(name, source):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        module = f"adapter_{name.replace('-', '_')}"
        (info / "entry_points.txt").write_text(f"[sadr_plugin]\n{name} = {module}\n")
        (tmp_path / f"{module}.py").write_text(source)

    return install


@pytest.fixture
def run(tmp_path, monkeypatch):
    path = [str(tmp_path), *(place for place in sys.path if place)]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))

    def python(script, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        return done.stdout, done.stderr

    return python


DOCTOR = "from sadr_plugin.commands.cli import main; main()"
POINTS = """
from sadr_plugin.plugins import edit_points
print(len(edit_points()), *sorted({point.editor for point in edit_points()}))
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("not-importable", "ModuleNotFoundError: No module named 'not_there'"),
        ("raises", "ZeroDivisionError: on import"),
        ("misspelt", "unknown hook 'sadr_edit_point'"),
        ("hook-raises", "ZeroDivisionError: division by zero"),
        ("no-points", "AttachmentError: sadr_edit_points: expected a list of EditPoint"),
    ],
)
def test_a_broken_adapter_is_left_out(name, reason, installed, run):
    expected, _ = run(POINTS)
    installed(name, ADAPTERS[name])
    found, warned = run(POINTS)
    assert found == expected
    assert f"the adapter '{name}' is left out" in warned
    assert reason in warned
    shown, _ = run(f"import sys; sys.argv = ['sadr', 'doctor']; {DOCTOR}")
    assert f"{name}: left out: " in shown
    assert reason in shown


def test_a_hook_without_its_mark_is_warned_of(installed, run):
    installed("unmarked", "def sadr_edit_points(): return []")
    assert "SADR: sadr_edit_points of the plugin adapter_unmarked has the name" in run(POINTS)[1]


def test_a_method_without_its_mark_is_warned_of():
    class Unmarked:
        sadr_selected_heads = None

        @hookimpl
        def sadr_step(self, step):
            pass

        def sadr_loss_terms(self, running, config):
            raise AssertionError("it is not called")

        def sadr_helper(self):
            pass

    with pytest.warns(UserWarning, match="the name of a hook") as warned, registered(Unmarked()):
        pass
    (only,) = warned
    assert "sadr_loss_terms of the plugin test_a_method" in str(only.message)
    assert "put @hookimpl above it" in str(only.message)


def test_an_adapter_that_imports_torch(installed, run):
    """Torch's import enables SADR, which asks for the adapters while they are being loaded."""
    expected, _ = run(POINTS)
    installed("aaa", "import torch")
    script = "import sadr_plugin.autoload; sadr_plugin.autoload.start(); "
    script += "import sadr_plugin; sadr_plugin.plugin_manager()\n" + POINTS
    script += "from sadr_plugin.patching._attaching import _watch; print(*sorted(_watch.names))"
    found, warned = run(script)
    points, watched = found.splitlines()
    assert points == expected.strip()
    assert "left out" not in warned
    assert "easyeditor" in watched, "and all of them are attached"


def test_an_import_error_while_torch_is_half_imported(installed, run):
    """The next `enable` loads the adapter."""
    expected, _ = run(POINTS)
    source = """
import sys
from torch import nn
if not hasattr(sys, "torch_is_there"):
    raise ImportError("cannot import name 'nn' from partially initialized module 'torch'")
"""
    installed("hasty", source)
    script = (
        POINTS
        + """
import sys, sadr_plugin
from sadr_plugin.plugins import failed_adapters, loaded_adapters
sadr_plugin.enable()
print(*failed_adapters())
sys.torch_is_there = True
sadr_plugin.enable()
print(*failed_adapters(), "hasty" in loaded_adapters())
"""
    )
    found, warned = run(script)
    assert found.splitlines() == [expected.strip(), "hasty", "True"]
    assert warned.count("left out") == 1


def test_an_interrupt_while_adapters_are_loaded(installed, run):
    """The next call loads them all."""
    expected, _ = run(POINTS)
    source = """
import sys
if not hasattr(sys, "interrupted"):
    sys.interrupted = True
    raise KeyboardInterrupt
"""
    installed("f-interrupted", source)
    first = """
from sadr_plugin.plugins import plugin_manager
try:
    plugin_manager()
except KeyboardInterrupt:
    print("interrupted")
"""
    found, warned = run(first + POINTS)
    assert found.splitlines() == ["interrupted", expected.strip()]
    assert "left out" not in warned


def test_commands_that_cannot_be_added(installed, run):
    source = """
from sadr_plugin import hookimpl
@hookimpl
def sadr_register_commands(app): raise RuntimeError("no commands")
"""
    installed("speechless", source)
    shown, warned = run(f"import sys; sys.argv = ['sadr', '--help']; {DOCTOR}")
    assert "speechless has no commands here: RuntimeError('no commands')" in warned
    assert "doctor" in shown
    assert "eval" in shown


def test_only_the_adapters_that_are_named_are_loaded(installed, run):
    installed("raises", ADAPTERS["raises"])
    found, warned = run(POINTS, SADR_LOAD_ADAPTERS="fastedit, gone")
    assert found.strip() == "1 ROME"
    assert "'raises'" not in warned
    assert "the adapter 'gone' is left out: SADR_LOAD_ADAPTERS names it, but it is not" in warned
    assert run(POINTS, SADR_LOAD_ADAPTERS="")[0].strip() == "0"


def test_an_adapter_is_loaded_later_beside_a_plugin_with_a_misspelt_hook(monkeypatch):
    class Late:
        name, dist, there = "late", None, False

        def load(self):
            if not self.there:
                raise ImportError("torch is half imported")
            return types.SimpleNamespace()

    class Misspelt:
        @hookimpl
        def sadr_edit_finish(self, report):
            pass

    late, manager = Late(), plugins.plugin_manager()
    monkeypatch.setattr(plugins, "_again", [late])
    for kept in ("_loaded", "_failed"):
        monkeypatch.setattr(plugins, kept, {})
    with registered(Misspelt()):
        plugins.load_again()
        assert plugins.failed_adapters() == {"late": "ImportError: torch is half imported"}
        late.there = True
        plugins.load_again()
    assert (list(plugins.loaded_adapters()), plugins.failed_adapters()) == (["late"], {})
    manager.unregister(name="late")


TWO_THREADS = """
import threading, time, types
import sadr_plugin
from sadr_plugin import plugins

class Adapter:
    name, dist = "slow", None

    def load(self):
        loading.set()
        time.sleep(0.5)
        sadr_plugin.enable()  # as the import of torch does
        return types.SimpleNamespace()

def block():
    loading.wait()
    with sadr_plugin.enabled():
        pass

loading = threading.Event()
plugins.entry_points = lambda group: [Adapter()]
threads = [threading.Thread(target=run, daemon=True) for run in (plugins.plugin_manager, block)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print([thread.is_alive() for thread in threads])
"""


def test_adapters_that_load_while_another_thread_enables(run):
    assert run(TWO_THREADS, SADR_AUTOLOAD="0")[0].strip() == "[False, False]"
