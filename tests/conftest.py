"""Models, a tokenizer and an adapter small enough to look into; and SmolLM2, the real one."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import sadr_plugin
from sadr_easyedit import smollm2
from sadr_plugin import hookimpl
from sadr_plugin.patching import _attaching
from smalledit import editor as small_editor
from support import SMALL, SmallAdapter, tiny_llama, word_tokenizer

# The same inputs every time; `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_configure(config):
    """SmolLM2 is converted once for all runs of this checkout; the user's own cache stays out."""
    if "SADR_CACHE" not in os.environ and config.pluginmanager.hasplugin("cacheprovider"):
        os.environ["SADR_CACHE"] = str(config.cache.mkdir("sadr"))


@pytest.fixture(autouse=True)
def _disabled():
    """Each test enables SADR by itself; start-up enabled it when torch was imported."""
    disable()
    yield
    disable()


def disable():
    """Disable SADR, though what a failed test made may still be in its traceback."""
    _attaching._flags.clear()
    sadr_plugin.disable()


@pytest.fixture(autouse=True)
def _traced():
    """A test that uses nnsight itself removes the trace function, and with it the coverage."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


@pytest.fixture(scope="session", name="word_tokenizer")
def _word_tokenizer():
    return word_tokenizer()


@pytest.fixture(name="tiny_llama")
def _tiny_llama():
    return tiny_llama()


@pytest.fixture
def request_():
    return {"prompt": "the {} is in", "subject": "tower", "target": "rome"}


@pytest.fixture
def small_adapter():
    adapter = SmallAdapter()
    manager = sadr_plugin.plugin_manager()
    manager.register(adapter, name="small")
    yield adapter
    sadr_plugin.disable()
    manager.unregister(adapter)


@pytest.fixture
def small(small_adapter):
    """The small toolkit's module, attached."""
    sadr_plugin.enable()
    return small_editor


@pytest.fixture(scope="session")
def golden():
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def smol():
    """SmolLM2-135M and its tokenizer."""
    return smollm2.load()


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
