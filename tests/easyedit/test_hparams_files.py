"""`sadr doctor` and a short edit agree about hparams files of users and forks.

Each edit runs the toolkit's own code on a small random model. Only the network is cut off.
"""

import sys
import types

import numpy as np
import pytest
import torch
import yaml

import sadr_plugin
from easyedit.conftest import MAIN_BRANCH
from easyedit.hparams_layouts import FILES, SENTENCES, save_models
from sadr_easyedit.loading import load_model
from sadr_easyedit.statistics import Job, compute, files
from sadr_plugin import EditorOptions
from sadr_plugin.commands._hparams import summary_of
from sadr_plugin.commands._run_setup import make_editor
from sadr_plugin.commands._verdict import Verdict, verdict_on
from sadr_plugin.errors import SadrError
from sadr_plugin.evaluation import Record

RECORD = Record("0", "The Eiffel Tower", "{} is located in the city of", "Rome", "Paris")


class Bars:
    """No progress bars."""

    def add_task(self, *_, **__):
        return 0

    def update(self, *_, **__):
        pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """The toolkit's caches are empty, as in a new process, and it reaches no network."""
    monkeypatch.chdir(tmp_path)
    for name, module in list(sys.modules.items()):
        if name.startswith("easyeditor."):
            for cache in ("COV_CACHE", "inv_mom2_cache"):
                if hasattr(module, cache):
                    monkeypatch.setattr(module, cache, {})
            for kept in ("P", "cache_c"):
                monkeypatch.delattr(module, kept, raising=False)

    def unreachable(*_, **__):
        raise OSError("no network")

    from easyeditor.models.rome import layer_stats

    monkeypatch.setattr(layer_stats, "load_dataset", unreachable)


def put_statistics(content, kind):
    """Put layer statistics where the file's editor looks for them."""
    hparams = types.SimpleNamespace(**{**content, "device": 0})
    job = Job(*load_model(hparams, options=EditorOptions()), hparams)
    compute(job, [SENTENCES * 2] * 60, Bars())
    for place in files(job).values():
        if kind == "damaged":
            place.write_bytes(place.read_bytes()[:300])
        elif kind in ("foreign", "thin"):
            with np.load(place) as kept:
                state = dict(kept)
            if kind == "foreign":
                state["mom2.mom2"] = np.eye(8, dtype=np.float32)
            else:
                state["mom2.count"] = np.array(5)
            np.savez(place, **state)


def verdict_of(file):
    try:
        return verdict_on(file, summary_of(file))
    except SadrError as error:  # it cannot be read
        return Verdict([str(error)])


def edited(file):
    """Run one edit with the file. Return what it fails with, or None if it ran with SADR."""
    with sadr_plugin.enabled(), sadr_plugin.reports() as reports:
        try:
            editor = make_editor(file, EditorOptions())
            editor.edit([RECORD], yaml.safe_load(file.read_text())["sadr"])
        except Exception as error:
            return error
    return None if reports else AssertionError("the edit was plain")


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_doctor_and_the_edit_agree(case, models, tmp_path):
    if case.only_main and not MAIN_BRANCH:
        pytest.skip(f"EasyEdit's PyPI release has no {case.content['alg_name']}")
    name = case.content["model_name"]
    places = {"model_name": str(models / name), "stats_dir": str(tmp_path / "stats")}
    file = tmp_path / "hparams.yaml"
    file.write_text(yaml.safe_dump({**case.content, **places}))
    if case.statistics != "none":
        put_statistics({**case.content, **places}, case.statistics)
    if case.content.get("P_loc") == "other.pt":
        torch.save(torch.eye(8).unsqueeze(0), "other.pt")

    verdict, error = verdict_of(file), edited(file)

    expected = case.main if MAIN_BRANCH else case.pypi
    assert verdict.is_good == (error is None), (verdict, error)
    assert verdict.is_good == (expected is None), verdict
    if expected is not None:
        assert expected in "; ".join(verdict.faults)
    if case.statistics == "thin":
        assert "statistics are of 5 tokens, fewer than 640" in "; ".join(verdict.remarks)


def test_there_are_enough_files():
    here = [case for case in FILES if MAIN_BRANCH or not case.only_main]
    assert len(here) >= 31
