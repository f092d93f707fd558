"""Arbitrary input: a right result or one of the project's own errors, and never a changed model."""

import warnings

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sadr_plugin
from sadr_easyedit.hparams_check import sadr_read_hparams
from sadr_plugin.adapter import EditedToken, HparamsSummary, Prompt
from sadr_plugin.attention._positions import PromptTokens, locate, tokenize
from sadr_plugin.config import SadrConfig
from sadr_plugin.errors import ConfigError, PositionError, SadrError
from smalledit import editor as small_editor
from smalledit.hparams import SmallHparams
from support import SmallAdapter, attributes, tiny_llama, word_tokenizer

FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.sampled_from(["1e-2", "0x10", "10-19", "3-1", "-1", "nan", "inf", "١", "__import__('os')"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=5), scalars), inner, max_size=4),
    ),
    max_leaves=8,
)
keys = st.sampled_from([*SadrConfig.model_fields, "gama", ""])
flags = st.one_of(values, st.dictionaries(keys, values, max_size=4))


def outcome(expected, function, *arguments):
    """What the function gives, or the one kind of error it may raise."""
    try:
        return function(*arguments)
    except expected as error:
        return error


@settings(max_examples=2000, deadline=None)
@given(flags)
def test_any_value_of_the_flag(value):
    config = outcome(ConfigError, SadrConfig.parse, value)
    if isinstance(config, ConfigError):
        assert str(config).startswith("sadr")
        return
    if config is None:
        assert value is None or value is False
        return
    assert config.gamma is None or 0 <= config.gamma < float("inf")
    assert config.divergence in ("kl", "js", "l2")
    assert config.layers is None or all(layer >= 0 for layer in config.layers)


documents = st.one_of(
    st.text(max_size=200),
    values.map(lambda value: yaml.dump(value, allow_unicode=True)),
    st.fixed_dictionaries(
        {"alg_name": st.sampled_from(["ROME", "MEMIT", "PMET", "FT"])},
        optional={
            "model_name": values,
            "layers": values,
            "layer_module_tmp": values,
            "sadr": flags,
        },
    ).map(lambda value: yaml.dump(value, allow_unicode=True)),
)


@settings(max_examples=500, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@example("alg_name: !!python/object/apply:os.system ['touch changed']")
@example("alg_name: ROME\nlayers: !!python/name:os.system\nmodel_name: x\nlayer_module_tmp: y")
@example("2020-99-99")
@example("[" * 3000)
@example("a: &a [*a]")
@example("alg_name: [ROME]\n")
@example("alg_name: ROME\nmodel_name: x\nlayers: [nine]\nlayer_module_tmp: 'model.layers.{}'")
@given(documents)
def test_any_hparams_file(tmp_path, monkeypatch, document):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hparams.yaml"
    file.write_bytes(document.encode("utf-8", errors="surrogatepass"))
    summary = outcome(ConfigError, sadr_read_hparams, file)
    if isinstance(summary, ConfigError):
        assert str(file) in str(summary)
    else:
        assert summary is None or isinstance(summary, HparamsSummary)
        assert summary is None or isinstance(summary.layer, int)
    assert [path.name for path in tmp_path.iterdir()] == ["hparams.yaml"]


pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "tower",
            "the tower",
            "{}",
            "{",
            "}}",
            "{0}",
            "\x00",
            "\u202e",
            "\n\t",
            " ",
            "é",
            "e\u0301",
        ]
    ),
    st.sampled_from(
        ["東京タワー", "👩‍👩‍👧", "ß", "İstanbul", "tower tower", "a" * 40, "%s", "\ud7ff"]
    ),
)


class Slow:
    """A tokenizer without offsets."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, text, **options):
        return self.tokenizer(text, **options)


@pytest.fixture(scope="module", params=["words", "bytes", "slow"])
def tokenizer(request):
    if request.param == "bytes":
        from sadr_easyedit import smollm2

        return smollm2.load()[1]
    words = word_tokenizer()
    if request.param == "slow":
        words = Slow(words)
    return words


@settings(max_examples=600, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(pieces, pieces, pieces, st.sampled_from(EditedToken.__args__))
def test_any_prompt_and_subject(tokenizer, before, subject, after, edited_token):
    prompt = outcome(PositionError, Prompt.from_template, before + "{}" + after, subject)
    if isinstance(prompt, PositionError):
        return
    found = outcome(PositionError, tokenize, tokenizer, prompt, edited_token)
    if isinstance(found, PositionError):
        return
    assert prompt.text == before + subject + after
    assert 0 <= found.edited < len(found.ids)
    if not tokenizer.is_fast:
        return
    offsets = tokenizer(prompt.text, return_offsets_mapping=True)["offset_mapping"]
    start, end = len(before), len(before) + len(subject)
    low, high = offsets[found.edited]
    if edited_token == "subject_last":
        # It carries a character of the subject, and no later token does.
        inner_end = start + len(subject.rstrip())
        assert low < inner_end
        assert high > start
        assert all(
            later[0] >= inner_end for later in offsets[found.edited + 1 :] if later[1] > later[0]
        )
    elif edited_token == "subject_first":
        assert low < end
        assert high > start
    elif edited_token == "last":
        assert found.edited == len(offsets) - 1


def prompt_of(ids, edited):
    return PromptTokens(Prompt("", "subject", ""), tuple(ids), edited)


rows = st.lists(
    st.tuples(
        st.lists(st.integers(1, 5), min_size=1, max_size=6),  # the prompt
        st.lists(st.integers(6, 9), min_size=0, max_size=3),  # its target
        st.integers(0, 5),  # which token is edited
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=1000, deadline=None)
@given(rows, st.sampled_from(["left", "right"]), st.integers(0, 3), st.booleans())
def test_any_layout_of_a_batch(rows, side, extra, others):
    prompts = [prompt_of(ids, edited % len(ids)) for ids, _, edited in rows]
    width = max(len(ids) + len(target) for ids, target, _ in rows) + extra
    batch, mask = [], []
    for ids, target, _ in rows:
        real, padding = [*ids, *target], [0] * (width - len(ids) - len(target))
        batch.append(padding + real if side == "left" else real + padding)
        ones = [1] * len(real)
        mask.append(padding + ones if side == "left" else ones + padding)
    if others:  # the prompt that keeps the essence, say
        batch.append([3] * width)
        mask.append([1] * width)
    found = locate(prompts, torch.tensor(batch), torch.tensor(mask))
    assert found is not None
    assert len(found.prediction) == len(rows)
    for row, (ids, _, edited) in enumerate(rows):
        first = mask[row].index(1)
        assert found.prediction[row] == first + len(ids) - 1
        assert found.subject[row] == first + edited % len(ids)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 4),
    st.integers(0, 6),
    st.data(),
)
def test_any_batch_and_mask(prompts, count, width, data):
    """A batch that does not begin with the prompts is none of the loop's, whatever its mask."""
    prompts = [prompt_of(ids, edited % len(ids)) for ids, edited in prompts]
    numbers = st.lists(st.integers(0, 3), min_size=width, max_size=width)
    batch = torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    batch = batch.reshape(count, width).long()
    mask = torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    mask = data.draw(st.sampled_from([None, mask.reshape(count, width).clamp(max=1)]))
    found = locate(prompts, batch, mask)
    if found is None:
        return
    for row, prompt in enumerate(prompts):
        kept = range(width) if mask is None else mask[row].nonzero().flatten().tolist()
        ids = [int(batch[row, index]) for index in kept]
        place = kept.index(int(found.subject[row]))
        assert place == prompt.edited
        assert ids[: place + 1] == list(prompt.ids[: place + 1])
        last = kept.index(int(found.prediction[row]))
        assert ids[: last + 1] == list(prompt.ids[: last + 1])


@pytest.fixture(scope="module")
def adapter():
    adapter = SmallAdapter()
    sadr_plugin.plugin_manager().register(adapter)
    yield adapter
    sadr_plugin.plugin_manager().unregister(adapter)


names = st.sampled_from(["tower", "louvre", "the", "", "tower city", "nowhere", "{}", "the tower"])
templates = st.sampled_from(
    ["the {} is in", "{}", "{} {}", "tower is in", "is the {}", "the tower {} in", "{ {}", "{}."]
)


@settings(max_examples=400, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(names, templates, st.sampled_from(["rome", "", "paris the"]), flags, st.integers(-2, 5))
def test_any_edit(adapter, subject, template, target, flag, layer):
    """With any flag an edit ends as the toolkit ends it, or with one of the plugin's errors."""
    request = {"prompt": template, "subject": subject, "target": target}
    model = tiny_llama().requires_grad_(False)
    before = attributes(model)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}

    def run(flag):
        hparams = SmallHparams(v_num_grad_steps=2)
        hparams.layer = layer
        try:
            hparams.sadr = flag
            return small_editor.optimise(model, word_tokenizer(), request, hparams)
        except Exception as error:
            return error

    alone = run(None)
    with sadr_plugin.enabled(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run(flag)
    if isinstance(found, Exception):
        assert isinstance(found, SadrError) or repr(found) == repr(alone)
    assert attributes(model) == before
    assert all(torch.equal(weight, weights[n]) for n, weight in model.state_dict().items())
