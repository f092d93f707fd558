"""Whole edits through the toolkit's own entry points, on SmolLM2, with SADR."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sadr_plugin
from easyedit.conftest import MAIN_BRANCH
from easyedit.facts import FACTS
from easyedit.test_editors import EDIT_POINTS, hparams_of, optimise
from sadr_easyedit.corpus import python_manual
from sadr_easyedit.statistics import Job, compute
from sadr_plugin import hookimpl
from sadr_plugin.errors import PositionError
from sadr_plugin.evaluation import answer_probability
from sadr_plugin.testing import registered, witnessing


@pytest.fixture(autouse=True)
def _off_afterwards():
    yield
    sadr_plugin.disable()


def requests(count):
    return [
        {"prompt": prompt.replace(subject, "{}"), "subject": subject, "target_new": target}
        for prompt, subject, target, _ in FACTS[:count]
    ]


def asked(model, tok, request):
    prompt = request["prompt"].format(request["subject"])
    return answer_probability(model, tok, prompt, request["target_new"])


class NoProgress:
    def add_task(self, *_, **__):
        return 0

    def update(self, *_, **__):
        pass


@pytest.fixture(scope="module")
def statistics(smol, tmp_path_factory):
    """Settings that find layer statistics for ROME, MEMIT and PMET at layers 8 and 9."""
    model, tok = smol
    settings = {
        "layers": [8, 9],
        "mom2_adjustment": True,
        "mom2_n_samples": 450,
        "mom2_update_weight": 2000,
        "stats_dir": str(tmp_path_factory.mktemp("statistics")),
    }
    editor = "PMET" if MAIN_BRANCH else "MEMIT"
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    job = Job(model, tok, hparams_of(point, **settings))
    compute(job, python_manual()[:450], NoProgress())
    return settings


def test_ten_edits_in_a_row(rome_main, model, tok, statistics, monkeypatch):
    """Each is found when it is made, and starts from the model the ones before left."""
    from easyeditor.models.rome import compute_u

    monkeypatch.setattr(compute_u, "inv_mom2_cache", {})
    sadr_plugin.enable()
    point = next(point for point in EDIT_POINTS if point.editor == "ROME")
    settings = {**statistics, "layers": [9], "v_num_grad_steps": 14, "sadr": {"gamma": 0.04}}
    del settings["mom2_update_weight"]
    hparams = hparams_of(point, **settings)
    with witnessing() as witness:
        for request in requests(10):
            before = asked(model, tok, request)
            rome_main.apply_rome_to_model(model, tok, [request], hparams)
            after = asked(model, tok, request)
            print(f"{request['subject']}: {before:.3f} -> {after:.3f}")
            assert after > 0.5 > before
    assert len(witness.reports) == 10
    for report in witness.reports:
        assert report.steps[0].penalty == 0, "the baseline is this edit's own"
        assert 0 < report.steps[-1].penalty < 10


@pytest.mark.parametrize("editor", ["MEMIT", "PMET"])
def test_several_facts_at_once(editor, model, tok, statistics, monkeypatch):
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    if editor == "PMET" and not MAIN_BRANCH:
        pytest.skip("EasyEdit's PyPI release has no PMET")
    module = importlib.import_module(f"easyeditor.models.{editor.lower()}.{editor.lower()}_main")
    monkeypatch.setattr(module, "CONTEXT_TEMPLATES_CACHE", [["{}"], ["However {}"]])
    monkeypatch.setattr(module, "COV_CACHE", {})
    sadr_plugin.enable()
    hparams = hparams_of(point, **statistics, sadr={"gamma": 0.04}, v_num_grad_steps=14)
    edits = requests(2)
    for request in edits:
        request["target_new"] = f" {request['target_new']}"  # PMET adds the space for GPT alone
    before = [asked(model, tok, request) for request in edits]
    with witnessing() as witness:
        getattr(module, f"apply_{editor.lower()}_to_model")(model, tok, edits, hparams)
    after = [asked(model, tok, request) for request in edits]
    print(editor, before, "->", after)
    assert all(a > 0.5 > b for a, b in zip(after, before, strict=True))
    assert [report.layer for report in witness.reports] == [9, 9]


class Positions:
    """Keeps each step's batch, and what the rows say of where they were taken."""

    def __init__(self, model):
        self.batch = None
        self.seen = []
        self.hook = model.register_forward_pre_hook(self.forward, with_kwargs=True)

    def forward(self, module, args, kwargs):
        if torch.is_grad_enabled():
            self.batch = kwargs["input_ids"]

    @hookimpl
    def sadr_selected_heads(self, baseline, subject_index):
        # A row ends where its token sees no further: at the prediction position.
        prediction = (baseline[0, :, 0] > 0).int().cumsum(-1).argmax(-1)
        self.seen.append((self.batch, subject_index.tolist(), prediction.tolist()))


PROMPT = "{} is located in the city of"
GROUPS = [["{}"], ["Then, he said that {}", "The quick brown fox. {}"], ["However {}"]]


@pytest.mark.parametrize(
    ("editor", "prompt", "subject", "target", "contexts", "fact_token"),
    [
        ("ROME", PROMPT, "The Eiffel Tower", "Rome", ["{}", "So {}"], "subject_last"),
        ("ROME", PROMPT, "The Eiffel Tower", "Rome", ["{}"], "subject_last"),
        ("ROME", PROMPT, "The Eiffel Tower", "New York City", ["{}", "So {}"], "last"),
        (
            "ROME",
            PROMPT,
            "Tōkyō-tawā 東京タワー",
            "Rio de Janeiro",
            ["{}", "So {}"],
            "subject_last",
        ),
        ("ROME", "Paris? {} is in the city of", "Paris", "Rome", ["{}", "So {}"], "subject_last"),
        ("MEMIT", PROMPT, "The Eiffel Tower", "New York City", GROUPS, "subject_last"),
        ("MEMIT", "In Rome, {} is in", "the São Paulo café ☕", "Rome", GROUPS, "subject_last"),
        ("PMET", PROMPT, "Zürich", "Rio de Janeiro", GROUPS, "subject_last"),
    ],
)
def test_positions_by_decoding(editor, prompt, subject, target, contexts, fact_token, model, tok):
    if editor == "PMET" and not MAIN_BRANCH:
        pytest.skip("EasyEdit's PyPI release has no PMET")
    request = {"prompt": prompt, "subject": subject, "target_new": f" {target}"}
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    sadr_plugin.enable()
    hparams = hparams_of(point, sadr=True, v_num_grad_steps=2, fact_token=fact_token)
    if fact_token == "last" and not MAIN_BRANCH:
        with pytest.raises(PositionError, match="use subject_last"):
            optimise(point, model, tok, hparams, request=request, contexts=contexts)
        return
    positions = Positions(model)
    try:
        with registered(positions):
            optimise(point, model, tok, hparams, request=request, contexts=contexts)
    finally:
        positions.hook.remove()
    ((batch, subject_index, prediction),) = positions.seen
    flat = [c for group in contexts for c in ([group] if isinstance(group, str) else group)]
    assert len(prediction) == len(flat)
    for row, edited, last, context in zip(batch, subject_index, prediction, flat, strict=False):
        text = context.format(prompt.format(subject))
        assert tok.decode(row[: last + 1]) == text
        until = text if fact_token == "last" else text[: text.rindex(subject) + len(subject)]
        assert tok.decode(row[: edited + 1]) == until


@pytest.mark.skipif(not MAIN_BRANCH, reason="for EasyEdit's main branch")
def test_base_editor(tmp_path):
    interpreter = os.environ.get("EASYEDIT_PYTHON")
    if not interpreter:
        pytest.skip("EASYEDIT_PYTHON names no interpreter with all of EasyEdit's dependencies")
    script = Path(__file__).with_name("base_editor.py")
    run = subprocess.run(
        [interpreter, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    results = json.loads((tmp_path / "base_editor.json").read_text())
    print(json.dumps(results, indent=2), file=sys.stderr)
    assert set(results) == {
        *(f"{editor} edit" for editor in ("ROME", "MEMIT", "PMET")),
        *(f"{editor} batch_edit" for editor in ("MEMIT", "PMET")),
        "ROME sequential",
    }
    for result in results.values():
        assert set(result["before"]) == {0}
        assert set(result["after"]) == {1}
