"""Every declared editor's loop, as it stands in the installed EasyEdit, on SmolLM2."""

import dataclasses
import importlib
import importlib.util
import inspect
import time

import pytest
import torch

import sadr_plugin
from easyedit.conftest import MAIN_BRANCH, ROME
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_plugin.testing import (
    REPLAY_TOLERANCE,
    REUSE_TOLERANCE,
    Echo,
    assert_equal,
    registered,
)
from support import attributes

REQUEST = {
    "prompt": "{} is located in the city of",
    "subject": "The Eiffel Tower",
    "target_new": " New York City",
}
CONTEXTS = ["{}", "Then, he said that {}", "However {}"]
VALUES = {
    **ROME,
    "v_num_grad_steps": 6,
    "layer_selection": "all",
    "mom2_update_weight": 15000,
    "nll_loss_factor": 1,
    # SmolLM2's head shares the embedding's weights and has no parameter of its own.
    "lm_head_module": "model.embed_tokens",
    "rewrite_module_tmps": ["model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"],
    "nullspace_threshold": 2e-2,
    "L2": 10,
    "P_loc": "",
    "cumulative_ratio": 0.5,
    "suppression_strength": 0.5,
    "ks_bs": 1,
    "clamp_ks_factor": 1.0,
    "cs_factor": 0.1,
    "mse_factor": 0.1,
    "tau": 1.0,
    "norm_factor": 1e-3,
    "delta_init": "target_init",
    "weight_decay_method": "norm",
}


def exists(target):
    try:
        return importlib.util.find_spec(target.partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


def load(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def names(point):
    return f"{point.editor}-{point.function.rpartition(':')[2]}"


@pytest.fixture(params=EDIT_POINTS, ids=names)
def point(request):
    if not exists(request.param.function):
        assert not MAIN_BRANCH, "the main branch has them all"
        pytest.skip(f"EasyEdit's PyPI release has no {request.param.editor}")
    return request.param


def hparams_of(point, **changes):
    hparams_class = load(point.hparams)
    fields = {field.name for field in dataclasses.fields(hparams_class)}
    values = {key: value for key, value in VALUES.items() if key in fields}
    return hparams_class(**{**values, "alg_name": point.editor, **changes})


def optimise(point, model, tok, hparams, layer=9, request=REQUEST, contexts=None):
    """Run the editor's function with whatever of these arguments it takes."""
    function = load(point.function)
    if contexts is None:
        in_groups = point.editor not in ("ROME", "R-ROME")
        contexts = [CONTEXTS[:1], CONTEXTS[1:]] if in_groups else CONTEXTS
    values = {
        "model": model,
        "tok": tok,
        "request": dict(request),
        "hparams": hparams,
        "layer": layer,
        "left_vector": torch.ones(1536) / 1536**0.5,
        "context_templates": contexts,
        "delta_list": [],
        "combine_weights": [torch.ones(1)],
        "request_id": 0,
        "layer_ks_norm": torch.tensor([5.0]),
    }
    takes = inspect.signature(function).parameters
    found = function(**{name: value for name, value in values.items() if name in takes})
    return found if isinstance(found, tuple) else (found,)


@pytest.fixture
def reports():
    with sadr_plugin.reports() as found:
        yield found


def test_every_editor(point, model, tok, reports):
    alone = optimise(point, model, tok, hparams_of(point))
    before = attributes(model)
    sadr_plugin.enable()
    assert point in sadr_plugin.attached()
    for flag in (False, {"gamma": 0, "reuse": False}):
        found = optimise(point, model, tok, hparams_of(point, sadr=flag))
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    reports.pop()
    found = optimise(point, model, tok, hparams_of(point, sadr={"gamma": 0}))
    assert_equal(list(found), list(alone), "reuse changes the result", REUSE_TOLERANCE)
    assert_other_prompts_are_as_in_the_loop(point, model, tok)
    reports.pop()
    started = time.perf_counter()
    restrained = optimise(point, model, tok, hparams_of(point, sadr=True))
    seconds = time.perf_counter() - started
    assert not all(torch.equal(a, b) for a, b in zip(restrained, alone, strict=True))
    free, held = reports
    print(
        f"| {point.editor} | `{point.function.rpartition(':')[2]}` | "
        f"{'main' if MAIN_BRANCH else 'PyPI'} | {held.gamma:g} | {free.steps[-1].penalty:.4f} | "
        f"{held.steps[-1].penalty:.4f} | {seconds:.1f} |"
    )
    assert (held.editor, held.gamma, held.layer) == (point.editor, point.gamma, 9)
    assert len(free.steps) == len(held.steps) == 6
    assert held.steps[-1].penalty < free.steps[-1].penalty
    assert attributes(model) == before


def assert_other_prompts_are_as_in_the_loop(point, model, tok):
    """The loop's own prompt, run as another with its vector in place, gives what the loop gives."""
    with registered(Echo()) as echo:
        hook = model.register_forward_hook(echo.watch)
        try:
            optimise(point, model, tok, hparams_of(point, sadr={"num_grad_steps": 2}))
        finally:
            hook.remove()
    assert len(echo.gaps) == 2
    assert max(echo.gaps) < REPLAY_TOLERANCE
    assert max(echo.moves) > 0.1


def test_every_editor_keeps(point, model, tok, reports):
    sadr_plugin.enable()
    keep = {"openings": ["{} was", "{} belongs to"], "texts": 1, "others": 2, "length": 3}
    for weight in (1e-9, 30):
        flag = {"gamma": 0, "keep": {**keep, "weight": weight, "distracted": weight}}
        optimise(point, model, tok, hparams_of(point, sadr=flag))
    free, held = reports
    for name in ("keep", "keep_distracted"):
        assert 0 < held.steps[-1].terms[name] < free.steps[-1].terms[name] / 2
    assert held.steps[0].terms["keep"] == 0 or not zero_start(point)


def zero_start(point):
    return point.editor != "EAMET"


def test_every_editor_stops_once_the_edit_is_made(point, model, tok, reports):
    """As the editor itself does at its last step."""
    sadr_plugin.enable()

    def found(**flag):
        hparams = hparams_of(point, sadr={"gamma": 0, **flag}, v_lr=1.0)
        return optimise(point, model, tok, hparams)

    found(stop_at=1)
    reached = [step.target for step in reports[0].steps]
    best = reached.index(max(reached))
    assert best > 0
    stopped, told = found(stop_at=reached[best]), found(num_grad_steps=best + 1)
    assert len(reports[1].steps) == best + 1
    assert all(torch.equal(a, b) for a, b in zip(stopped, told, strict=True))


def test_without_zero_start_the_first_step_has_drifted(model, tok, reports):
    (eamet,) = [point for point in EDIT_POINTS if point.editor == "EAMET"]
    if not exists(eamet.function):
        pytest.skip("EasyEdit's PyPI release has no EAMET")
    sadr_plugin.enable()
    flag = {"gamma": 0, "select_heads": False}
    # Early, where hidden states are small: EAMET starts from zero where their norm exceeds 100.
    optimise(eamet, model, tok, hparams_of(eamet, sadr=flag), layer=2)
    optimise(eamet, model, tok, hparams_of(eamet, sadr=flag, delta_init="zero"), layer=2)
    started_off, started_at_zero = reports
    assert started_off.steps[0].penalty > 0.01
    assert started_at_zero.steps[0].penalty == 0


def test_core_with_contexts_of_its_own(model, tok, reports):
    (core,) = [point for point in EDIT_POINTS if point.editor == "CORE"]
    if not exists(core.function):
        pytest.skip("EasyEdit's PyPI release has no CORE")
    sadr_plugin.enable()
    hparams = hparams_of(core, sadr=True, context="subject", ctx_num=3)
    optimise(core, model, tok, hparams)
    (report,) = reports
    assert report.steps[-1].penalty > 0


def test_padding_on_the_left_is_warned_of_and_true_positions_are_watched(model, tok, reports):
    memit = next(point for point in EDIT_POINTS if point.editor == "MEMIT")
    sadr_plugin.enable()
    tok.padding_side = "left"
    try:
        with pytest.warns(UserWarning, match="MEMIT counts positions from the left"):
            optimise(memit, model, tok, hparams_of(memit, sadr=True))
    finally:
        tok.padding_side = "right"


@pytest.mark.parametrize("editor", ["MEMIT", "PMET"])
def test_cached_vectors_are_the_toolkits_alone(editor, model, tok, tmp_path, monkeypatch):
    """An edit with SADR neither reads them nor writes any."""
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    if not exists(point.function):
        pytest.skip(f"EasyEdit's PyPI release has no {editor}")
    module, _, name = point.caches[0].partition(":")
    main = importlib.import_module(module)
    monkeypatch.setattr(main, "CONTEXT_TEMPLATES_CACHE", [["{}"], ["However {}"]])

    class Found(Exception):
        pass

    def stop(*args, **kwargs):
        raise Found

    # Only the vectors matter here; statistics would be needed from this call on.
    monkeypatch.setattr(main, "compute_ks", stop)
    monkeypatch.setattr(main, "compute_ks_parallel", stop, raising=False)
    sadr_plugin.enable()
    template = str(tmp_path / "z" / ("{}_{}_{}_{}.npz" if editor == "PMET" else "{}_{}_{}.npz"))
    request = {**REQUEST, "case_id": 7}

    def files(sadr):
        hparams = hparams_of(point, sadr=sadr, v_num_grad_steps=2)
        with pytest.raises(Found):
            getattr(main, name)(model, tok, [request], hparams, cache_template=template)
        folder = tmp_path / "z"
        return {file.name for file in folder.iterdir()} if folder.exists() else set()

    with sadr_plugin.reports() as found:
        assert files({"gamma": 1}) == set()
        plain = files(False)
        assert plain
        assert files({"gamma": 1}) == plain
    assert len(found) == 2, "the vector in the file was not read"
