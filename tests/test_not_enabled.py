"""Hparams that ask for SADR, where SADR is not enabled: refused, and never a plain edit."""

import copy
import dataclasses
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import sadr_plugin
import smalledit.editor
from sadr_plugin.errors import ConfigError
from smalledit.hparams import Hparams, OtherHparams, SmallHparams
from support import SMALL, tiny_llama, word_tokenizer

HERE = Path(__file__).parent
REQUEST = {"prompt": "the {} is in", "subject": "tower", "target": "rome"}
REMEDY = r"not enabled here; call sadr_plugin\.enable\(\), or use hparams without the flag"
ORIGINAL = smalledit.editor.optimise


@dataclasses.dataclass
class Derived(SmallHparams):
    more: int = 1


def edit(hparams):
    return smalledit.editor.optimise(tiny_llama(), word_tokenizer(), REQUEST, hparams)


def is_refused(hparams):
    with pytest.raises(ConfigError, match=REMEDY):
        edit(hparams)
    return True


def is_as_it_was():
    """Whether the toolkit has its own functions and classes."""
    own = [vars(cls) for cls in (SmallHparams, Hparams, OtherHparams, Derived)]
    return smalledit.editor.optimise is ORIGINAL and not any("sadr" in names for names in own)


WAYS = {
    "itself": lambda hparams: hparams,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda hparams: pickle.loads(pickle.dumps(hparams)),
    "replace": lambda hparams: dataclasses.replace(hparams, layer=1),
    "from its attributes": lambda hparams: type(hparams)(**vars(hparams)),
    "from its fields": lambda hparams: type(hparams)(**dataclasses.asdict(hparams)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", [SmallHparams, Derived])
@pytest.mark.parametrize("flag", [True, {"gamma": 1}], ids=["true", "settings"])
def test_used_after_its_block(flag, cls, way, small_adapter):
    with sadr_plugin.enabled():
        hparams = WAYS[way](cls(sadr=flag))
        sadr = edit(hparams)
    assert sadr_plugin.attached() == []
    assert is_refused(hparams)
    plain = edit(cls())
    with sadr_plugin.enabled():
        assert torch.equal(edit(hparams)[0], sadr[0])
        assert torch.equal(edit(cls())[0], plain[0])
        assert not torch.equal(sadr[0], plain[0])
    assert is_refused(hparams)
    del hparams
    assert is_as_it_was()
    assert torch.equal(edit(cls())[0], plain[0])


@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle"])
def test_copied_after_its_block(way, small_adapter):
    with sadr_plugin.enabled():
        hparams = SmallHparams(sadr=True)
    copied = WAYS[way](hparams)
    del hparams
    assert copied.sadr is True
    assert is_refused(copied)
    del copied
    assert is_as_it_was()


def test_a_flag_that_is_set_after_the_block(small_adapter):
    """It is refused where it is set, too."""
    with sadr_plugin.enabled():
        hparams = SmallHparams(sadr=True)
    plain = SmallHparams()
    for build in (
        lambda: SmallHparams(sadr=True),
        lambda: OtherHparams(sadr=True),
        lambda: dataclasses.replace(hparams, layer=2),
        lambda: setattr(plain, "sadr", {"gamma": 1}),
    ):
        with pytest.raises(ConfigError, match=REMEDY):
            build()
    assert plain.sadr is None
    assert dataclasses.replace(hparams, sadr=False).sadr is False


def test_disabled(small):
    hparams = SmallHparams(sadr=True)
    sadr_plugin.disable()
    assert is_refused(hparams)
    assert (hparams.sadr, "sadr=True" in repr(hparams)) == (True, True)
    hparams.sadr = False
    assert is_as_it_was(), "no other flag is there"
    plain = edit(hparams)
    assert torch.equal(plain[0], edit(SmallHparams())[0])
    sadr_plugin.enable()
    assert torch.equal(edit(hparams)[0], plain[0])


def test_disabled_with_hparams_in_a_cycle(small):
    hparams = SmallHparams(sadr=True)
    hparams.itself = hparams
    sadr_plugin.disable()
    del hparams
    gc.collect()
    assert is_as_it_was()


def test_a_thread_that_outlives_the_block(small_adapter):
    started, ended, caught = threading.Event(), threading.Event(), []

    def work(hparams):
        started.set()
        ended.wait(10)
        try:
            edit(hparams)
        except ConfigError as error:
            caught.append(str(error))

    with sadr_plugin.enabled():
        thread = threading.Thread(target=work, args=(SmallHparams(sadr=True),))
        thread.start()
        started.wait(10)
    ended.set()
    thread.join(10)
    assert "call sadr_plugin.enable()" in caught[0]
    del thread
    gc.collect()
    assert is_as_it_was()


def test_several_edits_of_one_call(small, monkeypatch):
    """Not the first with SADR and the others without."""
    hparams = SmallHparams(sadr=True)
    with sadr_plugin.reports() as found:
        edit(hparams)
        sadr_plugin.disable()
        assert is_refused(hparams)
    assert len(found) == 1


def test_flags_come_and_go_in_many_threads(small_adapter):
    """Whichever is the last: the toolkit is as it was in the end."""

    def work(place):
        for _ in range(40):
            with sadr_plugin.enabled():
                hparams = SmallHparams(sadr=True)
                assert SMALL in sadr_plugin.attached()
            if place % 2:
                hparams.itself = hparams
            copied = copy.deepcopy(hparams)
            del hparams
            assert copied.sadr is True

    failed = []
    monkey = threading.excepthook
    threading.excepthook = failed.append
    try:
        threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        threading.excepthook = monkey
    assert failed == []
    gc.collect()
    assert is_as_it_was()


def test_the_flag_among_the_attributes(small):
    """It compares and shows as its value."""
    for flag in (True, {"gamma": 1}):
        hparams = SmallHparams(sadr=flag)
        assert vars(hparams) == {**vars(SmallHparams()), "sadr": flag}
        assert vars(hparams) == vars(SmallHparams(sadr=flag))
        assert vars(hparams) != vars(SmallHparams(sadr={"gamma": 2}))
        assert f"'sadr': {flag!r}" in repr(vars(hparams))
        other = SmallHparams()
        other.sadr = vars(hparams)["sadr"]
        assert other.sadr == flag
        del hparams.sadr
        assert "sadr" not in vars(hparams)


def test_hparams_of_a_class_without_the_flag(small):
    """Its object was flagged while nobody saw it."""
    sadr_plugin.disable()
    hparams = SmallHparams()
    hparams.sadr = True
    with sadr_plugin.enabled(), sadr_plugin.reports() as found:
        edit(hparams)
    assert len(found) == 1


CHILD = """
import pickle, sys
from pathlib import Path

sys.path[:0] = {path!r}
if {first!r} == "imported":
    import smalledit.editor
import sadr_plugin
from sadr_plugin.plugins import plugin_manager

from support import SmallAdapter

plugin_manager().register(SmallAdapter())
hparams = pickle.loads(Path("hparams.pickle").read_bytes())
from sadr_plugin.errors import ConfigError
from smalledit import editor
from smalledit.hparams import SmallHparams
from support import tiny_llama, word_tokenizer

def edit(hparams):
    request = {{"prompt": "the {{}} is in", "subject": "tower", "target": "rome"}}
    return editor.optimise(tiny_llama(), word_tokenizer(), request, hparams)[0]

try:
    edit(hparams)
except ConfigError as error:
    print(error)
edit(SmallHparams())
assert sadr_plugin.attached() == []
sadr_plugin.enable()
with sadr_plugin.reports() as found:
    edit(hparams)
print(len(found), hparams.sadr)
"""


@pytest.mark.parametrize("first", ["unpickled", "imported", "isolated"])
def test_unpickled_in_a_process_where_sadr_is_not_enabled(first, small, tmp_path):
    hparams = SmallHparams(sadr={"gamma": 1})
    (tmp_path / "hparams.pickle").write_bytes(pickle.dumps(hparams))
    script = CHILD.format(path=[str(HERE), *sys.path], first=first)
    done = subprocess.run(
        [sys.executable, *(["-S"] if first == "isolated" else []), "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "SADR_AUTOLOAD": "0"},
    )
    refusal, edited = done.stdout.splitlines() or [done.stderr[-3000:], ""]
    assert "call sadr_plugin.enable()" in refusal
    assert edited == "1 {'gamma': 1}"
