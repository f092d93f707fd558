import copy
import dataclasses
import importlib

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import sadr_plugin
from sadr_easyedit import smollm2
from sadr_plugin.errors import ConfigError, PositionError
from sadr_plugin.testing import REUSE_TOLERANCE, assert_equal
from support import attributes

REQUEST = {
    "prompt": "{} is located in the city of",
    "subject": "The Eiffel Tower",
    "target_new": " Rome",
}
CONTEXTS = ["{}", "Then, he said that {}", "The quick fox. {}", "However {}"]


@pytest.fixture(params=["enabled first", "imported first"])
def compute_v(request):
    if request.param == "enabled first":
        sadr_plugin.enable()
    from easyeditor.models.rome import rome_main

    sadr_plugin.enable()
    assert "ROME" in [point.editor for point in sadr_plugin.attached()]
    return rome_main.compute_v


def model_of_the_reference():
    """SmolLM2 at the rotary base the reference was computed at; tests/golden/README.md."""
    config = AutoConfig.from_pretrained(str(smollm2.model_folder()))
    if getattr(config, "rope_parameters", None):  # transformers 5
        config.rope_parameters["rope_theta"] = 10_000.0
    else:
        config.rope_theta = 10_000.0
    return smollm2.load(config=config)[0]


@pytest.mark.parametrize(("sadr", "vector"), [({"gamma": 0.04}, "sadr"), (False, "plain")])
def test_the_official_vector(compute_v, golden, tok, rome_yaml, sadr, vector):
    from easyeditor.models.rome import ROMEHyperParams

    model = model_of_the_reference()
    hparams = ROMEHyperParams.from_hparams(rome_yaml(sadr=sadr))
    with np.load(golden / "rome_smollm2.npz") as data:
        left = torch.tensor(data["left_vector"])
        reference = torch.tensor(data[f"right_vector_{vector}"])
    right = compute_v(model, tok, REQUEST, hparams, 9, left, CONTEXTS)
    difference = (right - reference).norm() / reference.norm()
    print(f"relative difference to the official {vector} vector: {difference:.2e}")
    assert difference < 1e-4


def apply(rome_main, model, tok, hparams):
    request = {**REQUEST, "target_new": "Rome"}  # here EasyEdit puts the space itself
    return rome_main.apply_rome_to_model(model, tok, [request], hparams)


def edited_weight(rome_main, model, tok, hparams):
    weight = model.get_parameter("model.layers.9.mlp.down_proj.weight")
    before = weight.detach().clone()
    apply(rome_main, model, tok, hparams)
    after = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(before)
    return after


def test_no_flag_or_false_is_bit_for_bit_the_toolkit(rome_main, model, tok, rome_yaml):
    from easyeditor.models.rome import ROMEHyperParams

    def load():
        return ROMEHyperParams.from_hparams(rome_yaml(v_num_grad_steps=3))

    alone = edited_weight(rome_main, model, tok, load())
    with sadr_plugin.enabled():
        off = load()
        off.sadr = False
        assert torch.equal(edited_weight(rome_main, model, tok, load()), alone)
        assert torch.equal(edited_weight(rome_main, model, tok, off), alone)
        off.sadr = {"gamma": 0, "reuse": False}
        assert torch.equal(edited_weight(rome_main, model, tok, off), alone)
        off.sadr = {"gamma": 0}
        found = edited_weight(rome_main, model, tok, off)
        assert_equal([found], [alone], "reuse changes the result", REUSE_TOLERANCE)
        off.sadr = {"gamma": 5.0}
        assert not torch.equal(edited_weight(rome_main, model, tok, off), alone)


def test_the_flag_in_yaml_constructor_and_attribute(rome_main, model, tok, rome_yaml):
    from easyeditor.models.rome import ROMEHyperParams

    sadr_plugin.enable()
    with sadr_plugin.reports() as reports:
        from_yaml = ROMEHyperParams.from_hparams(rome_yaml(sadr={"num_grad_steps": 3}))
        constructed = ROMEHyperParams(**vars(from_yaml))
        later = ROMEHyperParams.from_hparams(rome_yaml())
        later.sadr = from_yaml.sadr
        weights = [
            edited_weight(rome_main, model, tok, hparams)
            for hparams in (from_yaml, constructed, later)
        ]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert [len(report.steps) for report in reports] == [3, 3, 3]
    assert reports[0].gamma == 1e-2, "the paper's, for ROME"
    assert later.v_num_grad_steps == 10, "the user's own object is not changed"
    assert dataclasses.asdict(later)["sadr"] == later.sadr
    assert "sadr" not in dataclasses.asdict(ROMEHyperParams.from_hparams(rome_yaml()))


@pytest.mark.parametrize("error", [RuntimeError("mid-loop"), KeyboardInterrupt()])
def test_an_edit_broken_off_leaves_nothing_behind(rome_main, model, tok, rome_yaml, error):
    from easyeditor.models.rome import ROMEHyperParams

    original = rome_main.compute_v
    sadr_plugin.enable()
    hparams = ROMEHyperParams.from_hparams(rome_yaml(sadr=True))
    before = attributes(model)
    weights = copy.deepcopy(model.state_dict())
    forwards = 0

    def stop(*_):
        nonlocal forwards
        forwards += torch.is_grad_enabled()
        if forwards == 3:
            raise error

    hook = model.model.layers[20].register_forward_pre_hook(stop)
    with pytest.raises(type(error)) as caught:
        apply(rome_main, model, tok, hparams)
    hook.remove()
    assert caught.value is error
    assert attributes(model) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters()), "as ROME leaves it"
    assert not model.model.layers[9].mlp._forward_hooks
    hparams.sadr = False  # the traceback holds them
    sadr_plugin.disable()
    assert rome_main.compute_v is original
    copy.deepcopy(model)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("names", [["compute_v"], ["rome_hparams", "compute_v", "rome_main"]])
def test_reloaded_modules(rome_main, model, tok, rome_yaml, monkeypatch, names, enabled):
    """Edits without the flag are the toolkit's, bit for bit, and those with it have SADR."""
    from easyeditor.models import rome
    from easyeditor.models.rome import ROMEHyperParams

    def edits(classes):
        monkeypatch.setattr(rome_main, "CONTEXT_TEMPLATES_CACHE", ["{}", "However {}"])
        for cls in classes:
            for sadr in (False, {"gamma": 5.0}):
                hparams = cls.from_hparams(rome_yaml(v_num_grad_steps=2, sadr=sadr))
                with sadr_plugin.reports() as reports:
                    yield edited_weight(rome_main, model, tok, hparams), len(reports)

    sadr_plugin.enable()
    expected = list(edits([ROMEHyperParams]))
    assert [reports for _, reports in expected] == [0, 1]
    if not enabled:
        sadr_plugin.disable()
    for name in names:
        importlib.reload(importlib.import_module(f"easyeditor.models.rome.{name}"))
    sadr_plugin.enable()
    assert "ROME" in [point.editor for point in sadr_plugin.attached()]
    new = importlib.import_module("easyeditor.models.rome.rome_hparams").ROMEHyperParams
    for (weight, reports), (before, had) in zip(
        edits([new, rome.ROMEHyperParams]), [*expected, *expected], strict=True
    ):
        assert reports == had
        assert torch.equal(weight, before)


def test_bad_input(rome_main, model, tok, rome_yaml):
    from easyeditor.models.ft.ft_hparams import FTHyperParams
    from easyeditor.models.rome import ROMEHyperParams

    sadr_plugin.enable()
    file = rome_yaml(sadr={"gama": 1})
    with pytest.raises(ConfigError, match=rf"{file}: sadr.gama: unknown key"):
        ROMEHyperParams.from_hparams(file)
    with pytest.raises(ConfigError, match=rf"{file}: sadr: the key is empty; write true"):
        ROMEHyperParams.from_hparams(rome_yaml(sadr=None))
    fields = {field.name: None for field in dataclasses.fields(FTHyperParams)}
    with pytest.raises(ConfigError, match=r"no editor is attached for FTHyperParams.*ROME"):
        FTHyperParams(**fields, sadr=True)
    hparams = ROMEHyperParams.from_hparams(rome_yaml(sadr={"layers": [40]}))
    with pytest.raises(ConfigError, match=r"sadr.layers: 40 is outside LlamaForCausalLM"):
        apply(rome_main, model, tok, hparams)
    hparams.sadr = True
    without_subject = {**REQUEST, "prompt": "The Louvre is located in the city of"}
    with pytest.raises(PositionError, match="The Louvre is located in the city of"):
        rome_main.compute_v(model, tok, without_subject, hparams, 9, torch.ones(1536), CONTEXTS)


def test_a_plain_and_a_sadr_edit_differ_in_drift_alone(rome_main, model, tok, rome_yaml):
    """The edit holds in both arms; what it does to a neighbour it does less with SADR."""
    from easyeditor.models.rome import ROMEHyperParams

    from sadr_easyedit.declarations import read
    from sadr_plugin import DriftProbe
    from sadr_plugin.evaluation import answer_probability

    sadr_plugin.enable()
    neighbour = (
        "The Eiffel Tower is located in the city of Rome. The Louvre is located in the city of"
    )
    weight = model.get_parameter("model.layers.9.mlp.down_proj.weight")
    before, found = weight.detach().clone(), {}
    for arm, sadr in (("plain", False), ("sadr", {"gamma": 0.2})):
        hparams = ROMEHyperParams.from_hparams(rome_yaml(v_num_grad_steps=15, sadr=sadr))
        edit = read(
            {
                "model": model,
                "tok": tok,
                "request": REQUEST,
                "hparams": hparams,
                "layer": 9,
                "context_templates": CONTEXTS,
            }
        )
        probe = DriftProbe(edit)
        assert probe.drift() == pytest.approx(0, abs=1e-6)
        apply(rome_main, model, tok, hparams)
        found[arm] = {
            "edit": answer_probability(model, tok, edit.prompts[0].text, "Rome"),
            "neighbour": answer_probability(model, tok, neighbour, "Paris"),
            "drift": probe.drift(),
        }
        with torch.no_grad():
            weight.copy_(before)
    print(found)
    assert min(arm["edit"] for arm in found.values()) > 0.95
    assert found["sadr"]["neighbour"] > found["plain"]["neighbour"] + 0.05
    assert found["sadr"]["drift"] < found["plain"]["drift"] / 2
