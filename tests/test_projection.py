"""The projection of AlphaEdit and SPHERE, and what it was made from."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sadr_easyedit import projection, statistics
from sadr_plugin.errors import ConfigError


def write(file, moment):
    np.savez(file, **{"mom2.mom2": moment, "mom2.count": 30})


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A function that prepares a projection and returns how many layers were computed for it."""
    stored = {f"layers.{i}": tmp_path / f"{i}.npz" for i in (1, 2)}
    for file in stored.values():
        write(file, np.eye(3))
    monkeypatch.setattr(statistics, "files", lambda job: stored)
    settings = dict.fromkeys(projection.DEPENDS_ON, "any")
    settings |= {"layers": [1, 2], "P_loc": str(tmp_path / "p.pt"), "stats_dir": "stats"}
    settings["rewrite_module_tmp"] = "layers.{}"
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(3, 5) for _ in range(4))

    def run():
        computed = []

        def get_project(model, tokenizer, layer, hparams):
            computed.append(layer)
            return torch.eye(3)

        module = SimpleNamespace(get_project=get_project)
        projection.prepare_projection(module, model, None, SimpleNamespace(**settings))
        return len(computed)

    return run


def test_a_projection_of_other_statistics_is_refused(prepare, tmp_path):
    assert prepare() == 2
    assert prepare() == 0
    write(tmp_path / "2.npz", np.eye(3))
    assert prepare() == 0, "the same content, written again"
    changed = np.eye(3)
    changed[0, 0] = 2
    write(tmp_path / "2.npz", changed)
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
    write(tmp_path / "2.npz", 2 * np.eye(3))
    assert prepare() == 0


def test_damaged_statistics(prepare, tmp_path):
    (tmp_path / "1.npz").write_text("no archive")
    with pytest.raises(ConfigError, match=r"1\.npz cannot be read.*`sadr stats`"):
        prepare()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as a projection"),
        (b"<html>not found</html>", "cannot be read as a projection"),
        ({"P": 1}, "holds no tensor"),
        (torch.eye(3), "holds no tensor"),
        (torch.stack([torch.eye(3)] * 3), "is for 3 layers, and 2 are edited"),
        (torch.stack([torch.eye(4)] * 2), "is of width 4, and layers.1 takes 3"),
        (torch.zeros(2, 3, 3), "holds only zeros for layer 1"),
        (torch.stack([torch.eye(3), torch.eye(3) * torch.nan]), "NaN or infinite .* layer 2"),
        (torch.stack([torch.eye(3), 2 * torch.eye(3)]), "holds no projection for layer 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_projection_of_this_model(prepare, tmp_path, content, told):
    """Whether the toolkit made it, or somebody else."""
    file = tmp_path / "p.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError, match=rf"P_loc: .*p\.pt.*{told}.*; remove it"):
        prepare()


def test_a_projection_in_half_precision(prepare, tmp_path):
    """As its authors may publish it."""
    line = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, 3.0]])).T
    projection = (torch.eye(3) - line @ line.T).half()
    torch.save(torch.stack([projection] * 2), tmp_path / "p.pt")
    assert prepare() == 0


@pytest.mark.parametrize(
    ("moment", "told"),
    [(np.eye(4), "is of width 4, and the module takes 3"), (np.zeros((3, 3)), "only zeros")],
)
def test_a_projection_is_not_made_of_statistics_of_another_model(prepare, tmp_path, moment, told):
    write(tmp_path / "2.npz", moment)
    with pytest.raises(ConfigError, match=told):
        prepare()
    assert not (tmp_path / "p.pt").exists()
