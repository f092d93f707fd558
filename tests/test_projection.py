"""The projection of AlphaEdit and SPHERE, and what it was made from."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sadr_easyedit import projection, statistics
from sadr_plugin.errors import ConfigError


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A function that prepares a projection and returns how many layers were computed for it."""
    stored = {f"layers.{i}": tmp_path / f"{i}.npz" for i in (1, 2)}
    for file in stored.values():
        np.savez(file, moment=np.eye(3))
    monkeypatch.setattr(statistics, "files", lambda job: stored)
    settings = dict.fromkeys(projection.DEPENDS_ON, "any")
    settings |= {"layers": [1, 2], "P_loc": str(tmp_path / "p.pt"), "stats_dir": "stats"}

    def run():
        computed = []

        def get_project(model, tokenizer, layer, hparams):
            computed.append(layer)
            return torch.eye(3)

        module = SimpleNamespace(get_project=get_project)
        projection.prepare_projection(module, None, None, SimpleNamespace(**settings))
        return len(computed)

    return run


def test_a_projection_of_other_statistics_is_refused(prepare, tmp_path):
    assert prepare() == 2
    assert prepare() == 0
    np.savez(tmp_path / "2.npz", moment=np.eye(3))
    assert prepare() == 0, "the same content, written again"
    changed = np.eye(3)
    changed[0, 0] = 2
    np.savez(tmp_path / "2.npz", moment=changed)
    with pytest.raises(ConfigError, match=r"p\.pt was made from .* of layers\.2 .*; remove it"):
        prepare()
    (tmp_path / "p.pt").unlink()
    assert prepare() == 2
    (tmp_path / "1.npz").unlink()
    assert prepare() == 0, "a projection does not need its statistics any more"


def test_a_note_without_statistics(prepare, tmp_path):
    """It is from an earlier version."""
    prepare()
    note = json.loads((tmp_path / "p.pt.json").read_text())
    assert note.pop("statistics").keys() == {"layers.1", "layers.2"}
    (tmp_path / "p.pt.json").write_text(json.dumps(note))
    np.savez(tmp_path / "2.npz", moment=np.zeros(3))
    assert prepare() == 0


def test_damaged_statistics(prepare, tmp_path):
    (tmp_path / "1.npz").write_text("no archive")
    with pytest.raises(ConfigError, match=r"1\.npz cannot be read.*`sadr stats`"):
        prepare()
