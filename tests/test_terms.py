"""Loss terms that plugins give: SADR's own, and a stranger's beside it."""

import contextlib
import re
from pathlib import Path

import pytest
import torch
import yaml

import sadr_plugin
from sadr_plugin import LossTerm, Prompt, SadrConfig, hookimpl
from sadr_plugin.errors import (
    AttachmentError,
    ConfigError,
    PenaltyError,
    PositionError,
    UnsupportedLoopError,
)
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import tiny_llama, word_tokenizer


class Louvre:
    """A stranger's term: what the model says after "so the tower" is to stay likely."""

    name = "louvre"

    def __init__(self, weight=2.0, value=None):
        self.weight = weight
        self.seen = []
        self._value = value
        self._running = self._replay = None

    @hookimpl
    def sadr_loss_terms(self, running, config):
        self._running = running
        self.weight = config.terms.get("louvre", {}).get("weight", self.weight)
        return [self]

    def value(self):
        if self._value is not None:
            return self._value
        if self._replay is None:
            self._replay = self._running.replay([Prompt("so the ", "tower", "")])
        now = self._replay.now().log_softmax(-1)[-1, 5]
        self.seen.append((self._running.step, now.requires_grad, now.item()))
        return -now


def edit(small, request_, plugin, **sadr):
    with registered(plugin), sadr_plugin.reports() as found:
        hparams = SmallHparams(lr=0.2, sadr=sadr)
        result = small.optimise(tiny_llama(), word_tokenizer(), request_, hparams)
    return result[0], found[0]


def test_a_term_of_a_strangers(small, request_):
    alone = small.optimise(
        tiny_llama(), word_tokenizer(), request_, SmallHparams(lr=0.2, sadr={"gamma": 0.5})
    )
    plugin = Louvre()
    vector, report = edit(small, request_, plugin, gamma=0.5)
    assert isinstance(plugin, LossTerm)
    assert report.weights == {"drift": 0.5, "louvre": 2.0}
    assert [step for step, *_ in plugin.seen] == list(range(6))
    assert all(has_gradient for _, has_gradient, _ in plugin.seen), "at zero vector, too"
    assert [step.terms["louvre"] for step in report.steps] == pytest.approx(
        [-value for *_, value in plugin.seen]
    )
    assert plugin.seen[-1][-1] > plugin.seen[0][-1], "it is in the gradient"
    first = report.steps[0]
    assert first.loss == pytest.approx(alone[1][0] - 0.5 * 0 + 2 * first.terms["louvre"], rel=1e-5)
    assert not torch.equal(vector, alone[0])


def test_its_weight_from_the_hparams_file(small, request_):
    _, report = edit(small, request_, Louvre(), terms={"louvre": {"weight": 0.25}})
    assert report.weights["louvre"] == 0.25


def test_a_term_without_weight_is_looked_at(small, request_):
    alone, _ = edit(small, request_, object(), gamma=0.5)
    plugin = Louvre(weight=0.0)
    vector, report = edit(small, request_, plugin, gamma=0.5)
    assert torch.equal(vector, alone)
    assert not any(has_gradient for _, has_gradient, _ in plugin.seen)
    assert report.steps[-1].terms["louvre"] == pytest.approx(-plugin.seen[-1][-1])


def test_settings_of_a_term_that_no_one_gives(small, request_):
    with pytest.raises(
        ConfigError, match=r"sadr\.terms\.luvre: no plugin gives such a term; there"
    ):
        edit(small, request_, Louvre(), terms={"luvre": {}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected a list of terms, got 3"),
        ([3], r"expected a term with name, weight and value\(\), got 3"),
        ([Louvre(), Louvre()], "two terms are called 'louvre'"),
        ([Louvre(weight=-1)], "the weight of 'louvre' has to be a number of at least 0, got -1"),
        ([Louvre(weight="2")], "the weight of 'louvre' has to be a number"),
        ([Louvre(weight=float("nan"))], "the weight of 'louvre' has to be a number"),
    ],
)
def test_something_else_than_terms(small, request_, given, message):
    class Plugin:
        @hookimpl
        def sadr_loss_terms(self):
            return given

    with pytest.raises(AttachmentError, match=f"sadr_loss_terms: {message}"):
        edit(small, request_, Plugin())


@pytest.mark.parametrize("name", ["drift", "keep"])
def test_the_plugins_own_terms_have_their_settings_elsewhere(small, request_, name):
    with pytest.raises(ConfigError, match=rf"sadr\.terms\.{name}: this term's settings are"):
        edit(small, request_, Louvre(), keep=True, terms={name: {}})


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(1), 1.0])
def test_a_value_that_is_no_scalar(small, request_, value):
    with pytest.raises(AttachmentError, match="the value of the term 'louvre' has to be a scalar"):
        edit(small, request_, Louvre(value=value))


@pytest.mark.parametrize("name", ["rows", "labels", "selected"])
def test_what_a_step_sets_is_not_there_before_the_first(small, request_, name):
    class Early:
        @hookimpl
        def sadr_loss_terms(self, running):
            assert not hasattr(running, "row")
            return [getattr(running, name)]

    with pytest.raises(AttachmentError, match=rf"running\.{name} is there only while a step is"):
        edit(small, request_, Early())


def test_a_term_without_a_gradient_is_warned_of(small, request_):
    with pytest.warns(UserWarning, match="the term 'louvre' had a weight and never a gradient"):
        edit(small, request_, Louvre(value=torch.tensor(0.5)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_ends_the_edit(small, request_, value):
    with pytest.raises(PenaltyError, match=f"term 'louvre' of the loss is {value} at step 0"):
        edit(small, request_, Louvre(value=torch.tensor(value)))


def test_a_vector_that_is_elsewhere_than_the_adapter_says(small, request_):
    """Then other prompts would run without it, and nothing would be kept."""
    from support import SMALL

    class Elsewhere:
        @hookimpl(wrapper=True)
        def sadr_edit_points(self):
            import dataclasses

            def read(arguments):
                return dataclasses.replace(
                    SMALL.read(arguments), edited_token="subject_first_after_last"
                )

            points = yield
            return [[dataclasses.replace(p, read=read) for p in points[0]], *points[1:]]

    sadr_plugin.disable()
    with registered(Elsewhere()):
        sadr_plugin.enable()
        with pytest.raises(PositionError, match="is not at the token that its adapter says"):
            edit(small, request_, Louvre(), reuse=False)
        sadr_plugin.disable()


DOCS = Path(__file__).parents[1] / "docs" / "loss-terms.md"


@pytest.fixture
def wordings():
    """The plugin that the docs tell how to write."""
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    code, registers = code.rsplit("\n\n", 1)
    assert registers.strip() == "sadr_plugin.plugin_manager().register(WordingsPlugin())"
    names = {}
    exec(code, names)
    return names["WordingsPlugin"]()


def test_the_example_of_the_docs(small, request_, wordings):
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[1])
    assert SadrConfig.parse(settings["sadr"]).terms["wordings"]["weight"] == 0.5
    words = {"wordings": {"weight": 2.0, "prompts": ["so the {} is", "{} is now in a"]}}
    with pytest.raises(ConfigError, match=r"sadr\.terms\.wordings\.weigth: unknown key"):
        edit(small, request_, wordings, terms={"wordings": {"weigth": 1, "prompts": ["{} is"]}})
    _, without = edit(small, request_, wordings, gamma=0)
    assert set(without.weights) == {"drift"}
    _, watched = edit(
        small, request_, wordings, gamma=0, terms={"wordings": {**words["wordings"], "weight": 0}}
    )
    _, report = edit(small, request_, wordings, gamma=0, terms=words)
    assert report.weights == {"drift": 0, "wordings": 2}
    model, tokenizer = tiny_llama(), word_tokenizer()
    with torch.no_grad():
        said = [
            model(**tokenizer([text], return_tensors="pt")).logits[0, -1].log_softmax(-1)
            for text in ("so the tower is", "tower is now in a")
        ]
    expected = -torch.stack(said)[:, tokenizer.vocab["rome"]].mean().item()
    assert report.steps[0].terms["wordings"] == pytest.approx(expected, rel=1e-4)
    last = report.steps[-1].terms["wordings"]
    assert last < watched.steps[-1].terms["wordings"], "other wordings gain by it"


def without_hooks(model):
    """Let the small toolkit's hook become a forward that is replaced, as other toolkits do it."""
    mlp = model.model.layers[1].mlp
    register, forward = mlp.register_forward_hook, mlp.forward

    class Handle:
        def remove(self):
            mlp.__dict__.pop("forward", None)

    def replace_instead(hook, **options):
        if hook.__name__ != "add_delta":
            return register(hook, **options)

        def changed(hidden):
            output = forward(hidden)
            given = hook(mlp, (hidden,), output)
            return output if given is None else given

        mlp.forward = changed
        return Handle()

    mlp.register_forward_hook = replace_instead
    return model


class Length:
    """A term that runs no other prompts."""

    name, weight = "length", 0.1

    @hookimpl
    def sadr_loss_terms(self, running, config):
        self.running = running
        return [self]

    def value(self):
        return self.running.rows.current.square().sum()


@pytest.mark.parametrize(
    ("plugin", "sadr"), [(Louvre(), {}), (None, {"keep": True})], ids=["a plugin's", "keep"]
)
def test_only_other_prompts_need_a_hook_that_adds_the_vector(small, request_, plugin, sadr):
    """An editor may replace a forward instead. Other terms work with it."""

    def run(*plugins, **more):
        with contextlib.ExitStack() as stack:
            for each in plugins:
                stack.enter_context(registered(each))
            hparams = SmallHparams(lr=0.2, sadr={"gamma": 0.5, "reuse": False, **more})
            model = without_hooks(tiny_llama())
            return small.optimise(model, word_tokenizer(), request_, hparams)[0]

    held, alone = run(Length()), run()
    assert (held - alone).norm() > 0.01 * alone.norm()
    with pytest.raises(UnsupportedLoopError, match="no forward hook was seen to add a vector"):
        run(*([plugin] if plugin else []), **sadr)
