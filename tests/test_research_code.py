"""The research code of MEMIT, AlphaEdit and PMET; and what only has the names of it.

SADR_RESEARCH_HOME is a folder with checkouts named ``memit`` (kmeng01/memit), ``AlphaEdit``
(jianghoucheng/AlphaEdit) and ``PMET`` (xpq-tech/PMET). All three have packages of the same names,
so each is imported for a test, and forgotten again.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

import sadr_memit
import sadr_plugin
from easyedit.conftest import ROME
from sadr_memit import EDIT_POINTS
from sadr_memit.hparams_files import OF_ALL, sadr_read_hparams
from sadr_plugin.commands._editors import attachabilities
from sadr_plugin.commands._verdict import Verdict, verdict_on
from sadr_plugin.devices import cuda_or_cpu
from sadr_plugin.errors import ConfigError
from sadr_plugin.testing import REUSE_TOLERANCE, EditorConformance, assert_equal, witnessing
from support import tiny_llama, word_tokenizer

HOME = os.environ.get("SADR_RESEARCH_HOME")
FOLDERS = {"memit": "memit", "AlphaEdit": "AlphaEdit", "PMET": "PMET/edit"}
EDITORS = [
    ("memit", "ROME"),
    ("memit", "MEMIT"),
    ("AlphaEdit", "ROME"),
    ("AlphaEdit", "MEMIT"),
    ("AlphaEdit", "AlphaEdit"),
    ("AlphaEdit", "NSE"),
    ("PMET", "MEMIT"),
    ("PMET", "PMET"),
    ("PMET", "PMET compute_z"),
]
VALUES = {
    **ROME,
    "layer_selection": "all",
    "v_num_grad_steps": 6,
    "v_lr": 2.0,
    "v_weight_decay": 0.01,
    "clamp_norm_factor": 100,
    "kl_factor": 0.0625,
    "nll_loss_factor": 1,
    "mom2_update_weight": 1000,
    "rewrite_module_tmps": ["model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"],
    "mom2_n_samples": 10,
    "nullspace_threshold": 0.02,
    "L2": 10,
    "model_name": "tiny",
    "alpha": 1.0,
    "upper_bound": 1.0,
    "max_iterations": 1,
    "neuron_threshold": 0.5,
}


def point_of(editor):
    name, _, function = editor.partition(" ")
    found = [point for point in EDIT_POINTS if point.editor == name]
    return next(p for p in found if p.function.endswith(f":{function}")) if function else found[0]


def load(target):
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def checkout(repository):
    """One of them, importable; afterwards nothing of it is."""
    if HOME is None:
        pytest.skip(
            "SADR_RESEARCH_HOME names no folder with the research code; in one, git clone "
            "https://github.com/ kmeng01/memit, jianghoucheng/AlphaEdit and xpq-tech/PMET"
        )
    folder = Path(HOME, FOLDERS[repository]).resolve()
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    stub = types.ModuleType("datasets")  # for Wikipedia, which no edit here asks for
    stub.load_dataset = None
    before, here, path = set(sys.modules), Path.cwd(), list(sys.path)
    added = [] if importlib.util.find_spec("datasets") else ["datasets"]
    for name in added:
        sys.modules[name] = stub
    os.chdir(folder)  # it reads globals.yml there
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sadr_plugin.disable()
        os.chdir(here)
        sys.path[:] = path
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(folder)) or name in added:
                del sys.modules[name]


def request_of(prompt, subject, new, true, case_id=0):
    """A request as the research code takes it."""
    return {
        "case_id": case_id,
        "prompt": prompt,
        "subject": subject,
        "target_new": {"str": new},
        "target_true": {"str": true},
    }


CITY = "{} is located in the city of", "The Eiffel Tower"
CONTEXTS = [["{}"], ["Then, he said that {}", "However {}"]]


def hparams_of(point, **changes):
    hparams = load(point.hparams)
    fields = {field.name for field in dataclasses.fields(hparams)}
    values = {**VALUES, "layers": [1], "v_loss_layer": 3, **changes}
    if point.editor == "PMET":  # its own hparams name the projection behind attention, too
        values["attn_module_tmp"] += ".o_proj"
    return hparams(**{k: v for k, v in values.items() if k in {*fields, "sadr"}})


def optimise(point, model, tok, hparams, layer, request, contexts, width):
    flat = [context for group in contexts for context in group]
    values = {"left_vector": torch.ones(width) / width**0.5}
    arguments = {
        "model": model,
        "tok": tok,
        "request": json.loads(json.dumps(request)),
        "hparams": hparams,
        "layer": layer,
        "context_templates": flat if point.editor == "ROME" else contexts,
        **(values if "left_vector" in point.parameters else {}),
    }
    with cuda_or_cpu(), named_as_gpt2(model.config):
        return load(point.function)(**arguments)


@contextlib.contextmanager
def named_as_gpt2(config):
    """The older code knows the width of a model by GPT-2's name for it alone."""
    config.n_embd = config.hidden_size
    try:
        yield
    finally:
        del config.n_embd


class Conformance(EditorConformance):
    repository = "memit"

    def setup_method(self):
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(checkout(self.repository))
        importlib.import_module(self.point.function.partition(".")[0])
        super().setup_method()

    def teardown_method(self):
        super().teardown_method()
        self._stack.close()

    def new_model(self):
        return tiny_llama()

    def hparams(self, **flag):
        return hparams_of(self.point, **flag)

    def run(self, model, hparams):
        # Each script puts a space before the object before it looks for the vector.
        request = request_of("the {} is in", "tower", " rome", "paris")
        contexts = [["{}"], ["so then {}"]]
        return optimise(self.point, model, word_tokenizer(), hparams, 1, request, contexts, 64)


for _repository, _editor in EDITORS:
    _name = f"Test{_repository}{_editor.replace(' ', '_')}"
    globals()[_name] = type(
        _name, (Conformance,), {"repository": _repository, "point": point_of(_editor)}
    )
del Conformance  # it is no test itself


@pytest.mark.parametrize(("repository", "editor"), EDITORS)
def test_on_smollm2(repository, editor, smol):
    """γ = 0 and the default one; hparams from the JSON the code's own scripts read."""
    model, tok = smol
    point = point_of(editor)
    request = request_of(*CITY, " New York City", "Paris")
    with checkout(repository):
        importlib.import_module(point.function.partition(".")[0])
        sadr_plugin.enable()
        assert point in sadr_plugin.attached()
        found = {}
        with witnessing() as witness:
            for sadr in (None, {"gamma": 0, "reuse": False}, {"gamma": 0}, True):
                values = {"layers": [9], "v_loss_layer": 29, "v_lr": 0.5, "clamp_norm_factor": 4}
                values |= {"v_weight_decay": 0.5, "lm_head_module": "model.embed_tokens"}
                hparams = dataclasses.asdict(hparams_of(point, **values))
                file = Path(os.environ["SADR_CACHE"], "hparams.json")
                file.write_text(json.dumps(hparams if sadr is None else {**hparams, "sadr": sadr}))
                hparams = load(point.hparams).from_json(file)
                out = optimise(point, model, tok, hparams, 9, request, CONTEXTS, 1536)
                found[str(sadr)] = out if isinstance(out, tuple) else (out,)
    alone, free, reused, held = found.values()
    assert all(torch.equal(a, b) for a, b in zip(alone, free, strict=True))
    assert_equal(list(reused), list(alone), "reuse changes the result", REUSE_TOLERANCE)
    assert not all(torch.equal(a, b) for a, b in zip(alone, held, strict=True))
    free, _, held = witness.reports
    print(
        f"| {point.editor} | `{point.function}` | {repository} | {held.gamma:g} | "
        f"{free.steps[-1].penalty:.4f} | {held.steps[-1].penalty:.4f} |"
    )
    assert held.steps[-1].penalty < free.steps[-1].penalty


@pytest.mark.parametrize(
    ("repository", "editor", "cache"),
    [
        ("memit", "ROME", "rome.rome_main:execute_rome"),
        ("memit", "MEMIT", "memit.memit_main:execute_memit"),
        ("AlphaEdit", "MEMIT", "memit.memit_main:execute_memit"),
        ("AlphaEdit", "MEMIT", "memit.memit_seq_main:execute_memit"),
        ("AlphaEdit", "MEMIT", "memit.memit_rect_main:execute_memit"),
        ("AlphaEdit", "AlphaEdit", "AlphaEdit.AlphaEdit_main:apply_AlphaEdit_to_model"),
        ("AlphaEdit", "NSE", "nse.nse_main:apply_nse_to_model"),
        ("PMET", "MEMIT", "memit.memit_main:execute_memit"),
        ("PMET", "PMET", "pmet.pmet_main:execute_pmet"),
    ],
)
def test_cached_vectors_are_the_codes_alone(repository, editor, cache, tmp_path, monkeypatch):
    """An edit with SADR neither reads them nor writes any."""
    point = point_of(editor)
    (tmp_path / "z").mkdir()
    template = str(tmp_path / "z" / ("{}_{}_{}_{}.npz" if repository == "PMET" else "{}_{}_{}.npz"))
    request = request_of("the {} is in", "tower", "rome", "paris", case_id=7)

    class Found(Exception):
        pass

    def stop(*args, **kwargs):
        raise Found

    with checkout(repository):
        main = importlib.import_module(cache.partition(":")[0])
        sadr_plugin.enable()
        contexts = ["{}", "so then {}"] if editor == "ROME" else [["{}"], ["so then {}"]]
        monkeypatch.setattr(main, "CONTEXT_TEMPLATES_CACHE", contexts)
        # Only the vectors matter here; statistics would be needed from these calls on.
        for name in ("compute_ks", "compute_ks_parallel", "upd_matrix_match_shape"):
            monkeypatch.setattr(main, name, stop, raising=False)

        def files(**flag):
            model, hparams = tiny_llama(), hparams_of(point, v_num_grad_steps=2, **flag)
            requests = request if editor == "ROME" else [request]
            with cuda_or_cpu(), named_as_gpt2(model.config), pytest.raises(Found):
                load(cache)(model, word_tokenizer(), requests, hparams, cache_template=template)
            return {file.name for file in (tmp_path / "z").iterdir()}

        with sadr_plugin.reports() as found:
            assert files(sadr={"gamma": 1}) == set()
            plain = files()
            assert plain
            assert files(sadr={"gamma": 1}) == plain
        assert len(found) == 2, "the vector in the file was not read"
        monkeypatch.undo()


STRANGERS = {
    "none": "",
    "other parameters": "def compute_v(model, prompt): pass",
    "another order": "def compute_v(tok, model, request, hparams, layer, left_vector, "
    "context_templates): pass",
    "no function": "compute_v = 3",
}
OWN = """
def compute_v(model, tok, request, hparams, layer, left_vector, context_templates):
    rewriting_targets = None
    for _ in range(hparams.v_num_grad_steps):
        loss = left_vector.sum()
        loss.backward()
"""
STRANGERS |= {more: OWN.replace("s):", f"s, {more}):", 1) for more in ("*, x=1", "**more")}
FITTING = (
    "import dataclasses\n@dataclasses.dataclass\nclass ROMEHyperParams:\n"
    "    v_num_grad_steps: int = 3\n"
)
OTHER = "class ROMEHyperParams: pass"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that writes a package called rome, and forgets it in the end."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(compute_v, hparams):
        (tmp_path / "rome").mkdir(exist_ok=True)
        (tmp_path / "rome" / "__init__.py").write_text("")
        (tmp_path / "rome" / "compute_v.py").write_text(compute_v)
        (tmp_path / "rome" / "rome_hparams.py").write_text(hparams)
        importlib.invalidate_caches()

    yield write
    sadr_plugin.disable()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "rome":
            del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "hparams"), [*((source, FITTING) for source in STRANGERS.values()), (OWN, OTHER)]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_strangers_rome_is_left_alone(package, source, hparams, when):
    """In silence, and `sadr editors` says so. Either the function or the class is another."""
    package(source, hparams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if when == "before":
            sadr_plugin.enable()
        module = importlib.import_module("rome.compute_v")
        hparams = importlib.import_module("rome.rome_hparams").ROMEHyperParams
        before = getattr(module, "compute_v", None), dict(vars(hparams))
        sadr_plugin.enable()
    assert (getattr(module, "compute_v", None), dict(vars(hparams))) == before
    assert point_of("ROME") not in sadr_plugin.attached()
    (found,) = (f for f in attachabilities() if f.point == point_of("ROME"))
    assert found.obstacle == "the rome that is here is another package"


def test_the_declared_one_is_not(package):
    """Whatever the rest of its package is."""
    package(OWN, FITTING)
    sadr_plugin.enable()
    importlib.import_module("rome.compute_v")
    hparams = importlib.import_module("rome.rome_hparams").ROMEHyperParams
    sadr_plugin.enable()
    assert hparams(sadr=True).sadr is True
    assert point_of("ROME") in sadr_plugin.attached()
    (found,) = (f for f in attachabilities() if f.point == point_of("ROME"))
    assert found.obstacle is None
    with pytest.raises(ConfigError, match=r"sadr\.gamma"):
        hparams(sadr={"gamma": -1})


@pytest.mark.parametrize(
    ("more", "editor"),
    [
        ({"nullspace_threshold": 1, "mom2_update_weight": 1}, "AlphaEdit"),
        ({"neuron_threshold": 1, "mom2_update_weight": 1}, "NSE"),
        ({"rewrite_module_tmps": [], "mom2_update_weight": 1}, "PMET"),
        ({"context_template_length_params": []}, "ROME"),
        ({"mom2_update_weight": 1}, "MEMIT"),
        ({}, None),
        ({"mom2_update_weight": 1, "alg_name": "MEMIT"}, None),
    ],
)
def test_hparams_files(tmp_path, more, editor):
    content = {
        "layers": [3, 4],
        "layer_module_tmp": "transformer.h.{}",
        "rewrite_module_tmp": "transformer.h.{}.mlp.fc_out",
        "v_num_grad_steps": 20,
        "v_loss_layer": 27,
        "sadr": True,
    }
    file = tmp_path / "EleutherAI_gpt-j-6B.json"
    file.write_text(json.dumps({**content, **more}))
    found = sadr_read_hparams(file)
    if editor is None:
        assert found is None
        return
    assert (found.editor, found.model_name) == (editor, "EleutherAI/gpt-j-6B")
    assert (found.layer, found.layer_template, found.sadr) == (4, "transformer.h.{}", True)
    for name, model in {
        "EleutherAI_gpt-j-6B": "EleutherAI/gpt-j-6B",  # AlphaEdit's code looks for this spelling
        "gpt2-xl": "gpt2-xl",
        "/models/my_llama": "/models/my_llama",
    }.items():
        file.write_text(json.dumps({**content, **more, "model_name": name}))
        assert sadr_read_hparams(file).model_name == model
    assert any((p.editor, p.hparams) == (editor, found.hparams) for p in EDIT_POINTS)
    file.write_text(json.dumps({**content, **more, "layers": "all"}))
    with pytest.raises(ConfigError, match="layers: expected a list of indices, got 'all'"):
        sadr_read_hparams(file)
    file.write_text("{")
    with pytest.raises(ConfigError, match=rf"{file}: cannot be read as JSON: Expecting"):
        sadr_read_hparams(file)
    assert sadr_memit.sadr_read_hparams(tmp_path / "none.json") is None


KEYS = {
    "ROME": ("context_template_length_params",),
    "MEMIT": ("layer_selection", "mom2_update_weight", "model_name"),
}


@pytest.mark.parametrize(
    ("repository", "editor", "changes", "fault"),
    [
        ("AlphaEdit", "ROME", {}, None),
        ("AlphaEdit", "MEMIT", {}, None),
        ("memit", "ROME", {}, "the width of a model as n_embd"),
        ("PMET", "MEMIT", {"model_name": None}, "the width of a model as n_embd"),
        ("AlphaEdit", "MEMIT", {"model_name": None}, "lacks model_name"),
        ("AlphaEdit", "ROME", {"model_name": "tiny"}, "model_name: the hparams class of ROME has"),
        ("AlphaEdit", "ROME", {"v_lr": "5e-1"}, "v_lr: expected a number, got '5e-1'"),
        ("AlphaEdit", "ROME", {"fact_token": "last"}, None),
        ("AlphaEdit", "MEMIT", {"fact_token": "last"}, "fact_token: last makes this editor"),
        ("AlphaEdit", "MEMIT", {"v_loss_layer": 47}, "v_loss_layer: 47 is outside"),
        ("AlphaEdit", "MEMIT", {"ln_f_module": "transformer.ln_f"}, "no module transformer.ln_f"),
        ("AlphaEdit", "MEMIT", {"update_norm_lambda": 0, "emmet_lambda": 1}, "a file of EMMET"),
        ("AlphaEdit", "MEMIT", {"prob_cutoff": 0, "norm_control": 0}, "a file of ENCORE"),
    ],
)
def test_doctor_and_the_edit_agree(repository, editor, changes, fault, tmp_path, monkeypatch):
    """The edit is the search for a vector by the code's own function, as its scripts call it."""
    model, tokenizer = tiny_llama(), word_tokenizer()
    folder = tmp_path / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    point = point_of(editor)
    values = {**VALUES, "layers": [1], "v_loss_layer": 3, "model_name": str(folder), "sadr": True}
    content = {key: values[key] for key in (*OF_ALL, *KEYS[editor], "sadr") if key in values}
    if editor == "ROME":
        content.pop("model_name")
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(content))
    with checkout(repository):
        monkeypatch.chdir(Path.cwd())
        try:
            summary = dataclasses.replace(sadr_read_hparams(file), model_name=str(folder))
            verdict = verdict_on(file, summary)
        except ConfigError as error:
            verdict = Verdict([str(error)])
        request = request_of("the {} is in", "tower", " rome", "paris")
        with sadr_plugin.enabled(), sadr_plugin.reports() as reports, cuda_or_cpu():
            try:
                arguments = {
                    "model": model,
                    "tok": tokenizer,
                    "request": request,
                    "hparams": load(point.hparams).from_json(file),
                    "layer": 1,
                    "context_templates": ["{}"] if editor == "ROME" else [["{}"]],
                }
                if editor == "ROME":
                    arguments["left_vector"] = torch.ones(64) / 8
                    arguments["request"]["target_new"]["str"] = " rome"
                load(point.function)(**arguments)
                error = None
            except Exception as raised:
                error = raised
    assert verdict.is_good == (error is None) == bool(reports), (verdict, error)
    assert fault is None if verdict.is_good else fault in "; ".join(verdict.faults)
