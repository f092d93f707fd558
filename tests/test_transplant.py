"""Attention put into other forwards, and the causal test that is made with it."""

import functools
import io
import math
import sys

import numpy
import pytest
import torch
from rich.console import Console

from evaluation_support import Acting, Elsewhere, Idle, SmallEditor, plain_edits, records
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._tracer import tracer_for
from sadr_plugin.commands._drift_findings import DriftOfRecords
from sadr_plugin.commands._options import layer_range
from sadr_plugin.drift import (
    CausalEvaluator,
    Head,
    MapReader,
    OtherModel,
    Variant,
    arm_names,
    correlations,
    ranked,
    restored,
    transferred,
)
from sadr_plugin.errors import ConfigError, EvaluationError
from sadr_plugin.evaluation import (
    UNEDITED,
    Arm,
    EvaluationRun,
    LocalEngine,
    Question,
    Result,
    summarise,
    table,
)
from sadr_plugin.evaluation._single import RecordTask
from sadr_plugin.models._architectures import ARCHITECTURES, build
from sadr_plugin.models.notices import quiet_transformers
from sadr_plugin.plugins import plugin_manager
from support import exists, tiny_llama, word_tokenizer

SUPPORTED = [found for found in ARCHITECTURES if found.supported]


@pytest.mark.filterwarnings("ignore")  # of small random models, whose sizes are odd
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", SUPPORTED, ids=lambda found: found.name)
def test_own_rows_change_nothing_and_others_do(architecture, implementation):
    if not exists(architecture.model_type):
        pytest.skip(f"transformers has no {architecture.model_type} here")
    try:
        with quiet_transformers():
            model = build(architecture, implementation).requires_grad_(False)
    except (ValueError, ImportError):
        pytest.skip(f"transformers has no {implementation} for it")
    ids = torch.randint(2, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    in_buffer = "buffer" in architecture.name  # only with a cache
    forward = functools.partial(model, input_ids=ids, attention_mask=mask, use_cache=in_buffer)
    hooks = plugin_manager().hook
    with tracer_for(Watch(model, architecture.layers, edited=0), hooks) as tracer:
        output, seen = tracer.run(forward)
        rows = [attention.all_rows() for attention in seen]
        again = tracer.run_with(forward, rows)
        flat = [torch.full_like(of_layer, 1 / 7) for of_layer in rows]
        others = tracer.run_with(forward, flat)
        one_head = tracer.run_with(forward, flat, {tracer.layers[0]: [1]})
        no_layer = tracer.run_with(forward, flat, {})
    torch.testing.assert_close(again.logits, output.logits, rtol=0, atol=3e-5)
    torch.testing.assert_close(no_layer.logits, output.logits, rtol=0, atol=0)
    gaps = [(found.logits - output.logits).abs().max().item() for found in (one_head, others)]
    assert min(gaps) > 1e-2, "what is put in counts, of one head too"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_each_head_attends_by_its_own_row(implementation):
    """A row that attends to the first token alone hands on that token's values."""
    model = tiny_llama().requires_grad_(False)
    model.config._attn_implementation = implementation
    attention = model.model.layers[1].self_attn
    seen = {}
    attention.v_proj.register_forward_hook(lambda *a: seen.update(value=a[2]))
    attention.o_proj.register_forward_pre_hook(lambda _, inputs: seen.update(attended=inputs[0]))
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with tracer_for(
        Watch(model, "model.layers.{}", edited=0, wanted=(1,)), plugin_manager().hook
    ) as tracer:
        rows = torch.zeros(1, 4, 5, 5)
        rows[..., 0] = 1
        tracer.run(lambda: model(input_ids=ids))
        own = seen["attended"].view(5, 4, 8)
        tracer.run_with(lambda: model(input_ids=ids), [rows], {1: [0, 3]})
    now = seen["attended"].view(5, 4, 8)
    first = seen["value"].view(5, 2, 8)[0]
    for head, key_head in ((0, 0), (3, 1)):
        torch.testing.assert_close(now[:, head], first[key_head].expand(5, 8))
    torch.testing.assert_close(now[:, 1:3], own[:, 1:3])


ALL_HEADS = Variant()


def causal(editor, variants=(ALL_HEADS,), count=2, **options):
    evaluator = CausalEvaluator(editor, [Arm("plain", None)], variants, **options)
    results = {}
    for record in records(count):
        for result in evaluator.items(RecordTask(record)):
            results[result.record, result.arm] = result
    evaluator.finish()
    return evaluator, results


def as_tensor(scores):
    return torch.tensor([pair for pairs in scores.values() for pair in pairs])


def test_an_edit_of_keys_is_all_attentions():
    """With the unedited attention back nothing is left of it, and the edited one is all of it."""
    _, results = causal(SmallEditor(), [Variant(), Variant(window=(2, 2)), Variant(window=(3, 3))])
    for key in ("0", "1"):
        unedited, edited = results[key, UNEDITED].scores, results[key, "plain"].scores
        assert not torch.allclose(as_tensor(unedited), as_tensor(edited), atol=1e-2)
        for variant in (Variant(), Variant(window=(2, 2))):
            for name, expected in ((restored, unedited), (transferred, edited)):
                found = results[key, name("plain", variant)].scores
                torch.testing.assert_close(as_tensor(found), as_tensor(expected), rtol=0, atol=1e-4)
        elsewhere = results[key, restored("plain", Variant(window=(3, 3)))].scores
        assert not torch.allclose(as_tensor(elsewhere), as_tensor(unedited), atol=1e-2)


class EditsValues(SmallEditor):
    weights = ("model.layers.3.self_attn.v_proj.weight",)


def test_an_edit_of_the_last_values_is_none_of_attentions():
    _, results = causal(EditsValues())
    unedited, edited = results["1", UNEDITED].scores, results["1", "plain"].scores
    assert not torch.allclose(as_tensor(unedited), as_tensor(edited), atol=1e-2)
    for name, expected in ((restored, edited), (transferred, unedited)):
        found = results["1", name("plain", Variant())].scores
        torch.testing.assert_close(as_tensor(found), as_tensor(expected), rtol=0, atol=1e-4)


def test_the_most_drifted_heads_alone():
    evaluator, results = causal(SmallEditor(), [Variant(top=1), Variant(top=8)])
    names = ["plain + unedited attention, 1 heads", "unedited + plain attention, 8 heads"]
    assert set(names) <= set(evaluator.arms) == set(arm_names(["plain"], evaluator.variants))
    edited = as_tensor(results["1", "plain"].scores)
    one, all_ = (as_tensor(results["1", restored("plain", Variant(top=k))].scores) for k in (1, 8))
    unedited = as_tensor(results["1", UNEDITED].scores)
    torch.testing.assert_close(all_, unedited, rtol=0, atol=1e-4)
    assert not torch.allclose(one, edited, atol=1e-3)
    assert not torch.allclose(one, unedited, atol=1e-3)


def test_maps_begin_after_the_first_layer_that_is_changed():
    editor = SmallEditor()
    (record,) = records(2)[1:]
    assert MapReader(editor, record).maps()[0].layers[0] == editor.layer + 1 == 2
    editor.weights = [f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 0)]
    assert MapReader(editor, record).maps()[0].layers[0] == 1
    editor.weights = ["lm_head.weight"]
    assert MapReader(editor, record).maps()[0].layers[0] == 2


def test_the_maps_are_the_models_own_weights():
    editor = SmallEditor()
    editor.model.config._attn_implementation = "eager"
    (record,) = records(2)[1:]
    reader = MapReader(editor, record)
    before = editor.model.get_parameter(editor.weights[0]).clone()
    editor.edit([record], None)
    reader.read("plain")
    maps = reader.maps()
    assert [(found.kind, found.question) for found in maps] == [
        ("efficacy", 0),
        ("relation", 0),
        ("distracting neighbourhood", 0),
        ("distracting relation", 0),
    ]
    for arm in ("plain", UNEDITED):
        if arm == UNEDITED:
            editor.model.get_parameter(editor.weights[0]).copy_(before)
        for found in maps:
            batch = editor.tokenizer(found.prompt, return_tensors="pt")
            own = editor.model(**batch, output_attentions=True).attentions
            expected = torch.stack([own[layer][0, :, -1] for layer in found.layers])
            torch.testing.assert_close(found.rows[arm], expected, rtol=0, atol=1e-5)
            assert found.tokens[found.subject].strip() == "tower"
    first = maps[0]
    assert first.layers == (2, 3)
    was, now = (first.rows[arm] + 1e-8 for arm in (UNEDITED, "plain"))
    gap = was * (was / now).log()
    torch.testing.assert_close(first.divergence("plain"), gap.sum(-1), rtol=0, atol=1e-5)
    heads = ranked(maps[:1], "plain")
    assert len(heads) == 8
    top = heads[0]
    place = first.layers.index(top.layer)
    assert top.divergence == pytest.approx(first.divergence("plain").max().item())
    assert top.now == pytest.approx(first.rows["plain"][place, top.head, first.subject].item())


def test_a_result_says_what_moved_and_can_be_read_again(tmp_path):
    evaluator = CausalEvaluator(SmallEditor(), [Arm("plain", None)])
    run = EvaluationRun(LocalEngine(evaluator), tmp_path / "results.jsonl")
    found = run.run(records(2))
    again = EvaluationRun(LocalEngine(evaluator), tmp_path / "results.jsonl")
    assert again.results == found
    assert again.run(records(2)) == found, "all was there"
    (plain,) = (r for r in found if (r.record, r.arm) == ("1", "plain"))
    drifts = [plain.moved[kind][0] for kind in ("relation", "distracting neighbourhood")]
    assert min(drifts) > 0
    assert {len(head) for head in plain.heads} == {5}
    sizes = [head[2] for head in plain.heads]
    assert sizes == sorted(sizes, reverse=True)


def test_what_cannot_be_edited_is_counted():
    evaluator, results = causal(
        SmallEditor(error=RuntimeError("no"), bad="1"), [Variant()], skip_bad=True
    )
    assert results["0", "plain"].error is None
    for name in evaluator.arms:
        assert "no" in results["1", name].error


def test_a_model_edited_before():
    editor, other = SmallEditor(), tiny_llama().requires_grad_(False)
    with pytest.raises(ConfigError, match="does not differ"):
        OtherModel(editor, other)
    weight = other.model.layers[2].self_attn.k_proj.weight
    weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    edited = OtherModel(editor, other)
    assert edited.weights == ["model.layers.2.self_attn.k_proj.weight"]
    before = {name: p.clone() for name, p in editor.model.named_parameters()}
    _, results = causal(edited)
    for name, parameter in editor.model.named_parameters():
        assert torch.equal(parameter, before[name])
    expected = other(**word_tokenizer()("the tower is in rome", return_tensors="pt")).logits
    found = results["0", "plain"].scores["efficacy"][0][0]
    rome = word_tokenizer().vocab["rome"]
    assert found == pytest.approx(expected[0, -2].log_softmax(-1)[rome].item(), abs=1e-4)
    with pytest.raises(ConfigError, match="not those of the unedited model"):
        OtherModel(editor, torch.nn.Linear(2, 2))


def result(record, arm, moved, rights):
    scores = {"relation": [(right, -9.0) for right in rights], "efficacy": [(-1.0, -2.0)]}
    kinds = None if moved is None else {"relation": moved, "efficacy": [5.0]}
    return Result(record, arm, scores, None, None, None, moved=kinds)


def test_correlations_over_questions_with_intervals_over_records():
    stats = pytest.importorskip("scipy.stats")
    random = numpy.random.default_rng(1)
    found, drifts, falls = [], [], []
    for number in range(12):
        moved = random.random(2).tolist()
        fall = [value + 0.3 * random.random() for value in moved]
        found.append(result(str(number), UNEDITED, None, [-1.0, -1.0, -1.0]))
        rights = [-1.0 - fall[0], -50.0, -1.0 - fall[1]]
        found.append(result(str(number), "plain", [moved[0], None, moved[1]], rights))
        drifts += moved
        falls += fall
    (relation,) = correlations(found)
    assert (relation.arm, relation.kind, relation.questions) == ("plain", "relation", 24)
    assert relation.pearson.value == pytest.approx(stats.pearsonr(drifts, falls).statistic)
    assert relation.spearman.value == pytest.approx(stats.spearmanr(drifts, falls).statistic)
    for coefficient in (relation.pearson, relation.spearman):
        assert coefficient.low < coefficient.value < coefficient.high < 1
    assert sorted(relation.points)[0][0] == pytest.approx(min(drifts))


def test_the_table_of_the_causal_test_fits_a_terminal():
    kinds = ("efficacy", "paraphrase", "neighbourhood", "relation", "distracting neighbourhood")
    found = [
        Result(str(number), arm, {kind: [(0.0, -1.0)] for kind in kinds}, None, None, 1.0, steps=20)
        for number in range(12)
        for arm in (UNEDITED, "plain", restored("plain", Variant()))
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(table(summarise(found), "causal test"))
    assert "…" not in console.file.getvalue()
    assert "steps" in console.file.getvalue()


def test_the_data_without_scipy_lacks_the_correlations_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    found = [result("0", UNEDITED, None, [-1.0, -2.0, -3.0])]
    found.append(result("0", "plain", [1.0, 2.0, 3.0], [-2.0, -4.0, -7.0]))
    with pytest.raises(EvaluationError, match="SciPy is not installed"):
        correlations(found)
    data = DriftOfRecords(found, ["plain"]).as_data()
    assert data["correlations"] is None
    assert [arm["arm"] for arm in data["arms"]] == [UNEDITED, "plain"]


def test_the_heads_of_a_variant():
    drifted = [Head(3, 1, 0.5, 0, 0), Head(2, 0, 0.4, 0, 0), Head(3, 0, 0.3, 0, 0)]
    assert Variant().heads([2, 3], drifted) is None
    assert Variant(top=2).heads([2, 3], drifted) == {3: [1], 2: [0]}
    assert Variant(top=3).heads([2, 3], drifted) == {3: [1, 0], 2: [0]}
    assert Variant(window=(3, 5)).heads([2, 3, 4], drifted) == {3: None, 4: None}
    assert layer_range("--window", "3") == (3, 3)
    for wrong in ("a-b", "5-3", ""):
        with pytest.raises(ConfigError, match="--window"):
            layer_range("--window", wrong)


def test_a_subject_that_a_question_does_not_name():
    editor = SmallEditor()
    (record,) = records(1)
    record = type(record)(**{**vars(record), "relations": (Question("it is a", "city", "rome"),)})
    kinds = [found.kind for found in MapReader(editor, record).maps()]
    assert kinds == ["efficacy", "distracting neighbourhood", "distracting relation"]
    assert not math.isnan(MapReader(editor, record).maps()[0].divergence(UNEDITED).sum())


@pytest.mark.parametrize(("editor", "warned"), [(SmallEditor(), ["0"]), (Acting(), [])])
def test_a_causal_test_of_an_edit_on_which_sadr_does_not_act_is_warned_of(tmp_path, editor, warned):
    evaluator = CausalEvaluator(editor, [Arm("sadr", {"gamma": 1.0})])
    run = EvaluationRun(LocalEngine(evaluator), tmp_path / "results.jsonl")
    assert plain_edits(lambda: run.run(records(2))) == warned
    acted = {r.acted for r in run.results if r.arm == "sadr"}
    assert acted == {not warned}
    assert {r.acted for r in run.results if r.arm != "sadr"} == {None}


def test_a_causal_test_of_an_editor_whose_edits_are_elsewhere_or_nowhere(tmp_path):
    def run(editor):
        engine = LocalEngine(CausalEvaluator(editor, [Arm("sadr", {"gamma": 1.0})]))
        return EvaluationRun(engine, tmp_path / "results.jsonl").run(records(1))

    with pytest.raises(EvaluationError, match=r"Editor\.layer is 0, but"):
        run(Elsewhere())
    with pytest.warns(UserWarning, match="in the arm sadr, the edit of record 0 changed none"):
        run(Idle())
