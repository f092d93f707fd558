"""The kit passes on a sound adapter, and each check fails on one broken for it."""

import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import sadr_plugin
import smalledit.editor
from sadr_plugin import Edit, Prompt, hookimpl
from sadr_plugin.errors import AttachmentError
from sadr_plugin.testing import EditorConformance
from smalledit.hparams import SmallHparams
from support import SMALL, SmallAdapter, read_small, tiny_llama, word_tokenizer

REQUEST = {"prompt": "the {} is in", "subject": "tower", "target": "rome"}


class Small(EditorConformance):
    point = SMALL

    def new_model(self):
        return tiny_llama()

    def hparams(self, **flag):
        return SmallHparams(**flag)

    def run(self, model, hparams):
        return smalledit.editor.optimise(model, word_tokenizer(), dict(REQUEST), hparams)


class TestSmall(Small):
    adapter = SmallAdapter()


class TestSmallInFull(Small):
    adapter = SmallAdapter()
    reuse = False


class Adapter:
    """The small toolkit's adapter, with another declaration and perhaps another penalty."""

    def __init__(self, penalty=None, **changes):
        self.point = replace(SMALL, **changes)
        if penalty is not None:
            self.sadr_penalty = hookimpl(penalty)

    @hookimpl
    def sadr_edit_points(self):
        return [self.point]


class AlwaysOn(Small):
    def hparams(self, **flag):
        hparams = SmallHparams()
        hparams.sadr = {"gamma": 1.0, "select_heads": False}
        return hparams


class NeverOn(Small):
    def run(self, model, hparams):
        hparams.sadr = None
        return super().run(model, hparams)


class Coarse(Small):
    """What it finds depends on more than the last bits of what it is given."""

    def run(self, model, hparams):
        vector, _ = super().run(model, hparams)
        part = isinstance(hparams.sadr, dict) and hparams.sadr.get("reuse", True)
        return vector + 1e-3 * bool(part)


class Started(Small):
    """Its vector is not zero at the first step."""

    def hparams(self, **flag):
        return SmallHparams(start=0.3, **flag)


class Elsewhere(Small):
    """Part of what it does to its batch is done where no one looks."""

    def run(self, model, hparams):
        def add(module, args, output):
            return output + 0.5 if len(output) == len(hparams.contexts) + 1 else None

        hook = model.model.layers[2].mlp.register_forward_hook(add)
        try:
            return super().run(model, hparams)
        finally:
            hook.remove()


def meddling(arguments):
    with torch.no_grad():
        arguments["model"].model.layers[0].mlp.down_proj.weight.mul_(1.01)
    return read_small(arguments)


def littering(arguments):
    arguments["model"].model.layers[0].mlp.note = "left behind"
    return read_small(arguments)


def wrong_token(arguments):
    return replace(read_small(arguments), edited_token="subject_first_after_last")


def wrong_target(arguments):
    return replace(read_small(arguments), target=" louvre")


def bare_prompt(arguments):
    edit = read_small(arguments)
    return replace(edit, prompts=edit.prompts[:1])


def not_from_zero(arguments):
    return replace(read_small(arguments), zero_start=False)


def with_target(arguments):
    edit = read_small(arguments)
    return replace(edit, prompts=[replace(p, suffix=p.suffix + " rome") for p in edit.prompts])


def remembering():
    seen = []

    def read(arguments):
        seen.append(arguments)
        arguments["hparams"].lr += 0.1 * (len(seen) - 1)
        return read_small(arguments)

    return read


def mixing_up_models():
    models = []

    def read(arguments):
        models.append(arguments["model"])
        return replace(read_small(arguments), model=models[max(0, len(models) - 2)])

    return read


def without_gradient(baseline, current):
    return (current.detach() - baseline).abs().sum()


BROKEN = {
    "test_off_is_bit_identical": (AlwaysOn, Adapter, "SADR enabled changes the result"),
    "test_gamma_0_is_bit_identical": (
        Small,
        lambda: Adapter(read=meddling),
        "gamma 0 changes the result",
    ),
    "test_reuse_changes_nothing": (Coarse, SmallAdapter, "reuse changes the result"),
    "test_baseline_is_the_unedited_model": (
        Started,
        SmallAdapter,
        r"is up to \d.* off that of the unedited model: the vector is not zero there",
    ),
    "test_term_is_in_value_and_gradient": (
        Small,
        lambda: Adapter(penalty=without_gradient),
        "it is not in the gradient",
    ),
    "test_target_grows_likelier": (
        Small,
        lambda: Adapter(read=wrong_target),
        "is lower at every other step: is the adapter's target",
    ),
    "test_target_is_what_the_loss_aims_at": (
        Small,
        lambda: Adapter(read=wrong_target),
        r"does not aim at the adapter's target ' louvre': the cosine of .* is -0\.",
    ),
    "test_no_prompt_is_left_out": (
        Small,
        lambda: Adapter(read=bare_prompt),
        r"others that the editor's loss looks at: \['so the tower is in[^,]*'\]; Edit\.prompts",
    ),
    "test_num_grad_steps": (
        Small,
        lambda: Adapter(steps_attribute="layer"),  # there, but something else
        r"of 2 steps the editor took 6: .* really 'layer'",
    ),
    "test_selection_is_the_definition": (
        Small,
        lambda: Adapter(read=wrong_token),
        r"the editor changes the tokens \[1, 2\].*say \[2, 3\]",
    ),
    "test_other_prompts_see_the_vector": (
        Elsewhere,
        SmallAdapter,
        "the vector is not put where the loop puts it",
    ),
    "test_model_and_toolkit_are_restored": (
        Small,
        lambda: Adapter(read=littering),
        "after None the model's modules differ",
    ),
    "test_wrong_settings_are_refused": (
        Small,
        lambda: Adapter(hparams="smalledit.hparams:OtherHparams"),
        "raised TypeError, not ConfigError",
    ),
    "test_two_edits_in_a_row": (
        Small,
        lambda: Adapter(read=remembering()),
        "the second edit differs",
    ),
    "test_two_threads_with_two_models": (
        Small,
        lambda: Adapter(read=mixing_up_models()),
        r"an edit in a thread (failed|differs)",  # which of the two is a matter of timing
    ),
}


@contextmanager
def ready(kit, adapter):
    """A kit for an adapter, set up, as pytest does it around each test."""
    kit.point, kit.adapter = getattr(adapter, "point", SMALL), adapter
    kit.setup_method()
    try:
        yield kit
    finally:
        kit.teardown_method()


@pytest.mark.parametrize("check", BROKEN)
def test_each_check_fails_on_what_it_guards(check):
    editor, adapter, reason = BROKEN[check]
    with ready(editor(), adapter()) as kit, pytest.raises(AssertionError) as failed:
        getattr(kit, check)()
    assert re.search(reason, str(failed.value), re.DOTALL), failed.value


def labelled(model, tok, request, hparams: SmallHparams):
    """A loop with two variables for its target's tokens."""
    prompt = request["prompt"].format(request["subject"])
    ids = tok([f"{prompt} {request['target']}"], return_tensors="pt")["input_ids"]
    own = torch.full_like(ids, -100)
    own[0, -1] = ids[0, -1]
    predicted = own.roll(-1, 1)
    delta = torch.zeros(model.config.hidden_size, requires_grad=True)

    def add(module, args, output):
        output = output.clone()
        output[0, 1] += delta
        return output

    hook = model.model.layers[hparams.layer].mlp.register_forward_hook(add)
    model.requires_grad_(False)
    try:
        for _ in range(hparams.v_num_grad_steps):
            logits = model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits[0], predicted[0])
            loss.backward()
            with torch.no_grad():
                delta -= 0.5 * delta.grad
                delta.grad = None
    finally:
        hook.remove()
    return delta.detach()


def bare(arguments):
    request, hparams = arguments["request"], arguments["hparams"]
    prompt = Prompt.from_template(request["prompt"], request["subject"])
    return Edit(arguments["model"], arguments["tok"], [prompt], hparams.layer, "model.layers.{}")


class Labelled(Small):
    def run(self, model, hparams):
        return smalledit.editor.labelled(model, word_tokenizer(), dict(REQUEST), hparams)


def test_labels_stand_where_they_are_predicted(monkeypatch):
    """Not at the tokens themselves, as the models of transformers take them."""
    monkeypatch.setattr(smalledit.editor, "labelled", labelled, raising=False)
    found = {}
    for name in ("predicted", "own"):
        adapter = Adapter(function="smalledit.editor:labelled", labels=name, read=bare)
        with ready(Labelled(), adapter) as kit:
            try:
                kit.test_target_is_what_the_loss_aims_at()
            except AssertionError as error:
                found[name] = str(error)
    assert list(found) == ["own"]
    assert re.match(r"the editor's loss does not aim at the adapter's labels 'own'", found["own"])


def test_a_prompt_that_holds_the_target_is_named_as_a_cause():
    message = "and prompts, which end before the target"
    adapter = Adapter(read=with_target)
    with ready(Small(), adapter) as kit, pytest.raises(AssertionError, match=message):
        kit.test_other_prompts_see_the_vector()


class Unfrozen(Small):
    """An editor that leaves the parameters' gradients on."""

    def run(self, model, hparams):
        for parameter in model.parameters():
            parameter.requires_grad_ = lambda _: None
        return super().run(model, hparams)


@pytest.mark.parametrize(("step", "side"), [(1, "below"), (-1, "above")])
@pytest.mark.parametrize(
    "check", ["test_selection_is_the_definition", "test_other_prompts_see_the_vector"]
)
def test_a_wrong_layer_is_named_though_the_editor_freezes_nothing(check, step, side):
    def read(arguments):
        edit = read_small(arguments)
        return replace(edit, layer=edit.layer + step)

    message = f"is added {side} layer .* correct the layer"
    adapter = Adapter(read=read)
    with ready(Unfrozen(), adapter) as kit, pytest.raises(AttachmentError, match=message):
        getattr(kit, check)()


def test_every_check_has_its_broken_adapter():
    checks = {name for name in dir(EditorConformance) if name.startswith("test_")}
    assert checks == set(BROKEN)


NEED_AN_EDIT = (
    "test_gamma_0_is_bit_identical",
    "test_baseline_is_the_unedited_model",
    "test_term_is_in_value_and_gradient",
    "test_num_grad_steps",
    "test_target_grows_likelier",
    "test_target_is_what_the_loss_aims_at",
    "test_no_prompt_is_left_out",
    "test_selection_is_the_definition",
)


def failure(kit, check):
    with ready(kit, SmallAdapter()), pytest.raises(AssertionError) as failed:
        getattr(kit, check)()
    return str(failed.value)


@pytest.mark.parametrize("check", NEED_AN_EDIT)
def test_a_flag_that_reaches_nothing_is_noticed(check):
    assert "the flag does not reach the editor" in failure(NeverOn(), check)


class Twice(Small):
    def run(self, model, hparams):
        super().run(model, hparams)
        return super().run(model, hparams)


class TestStarted(Started):
    """With a forward of its own for the baseline, such an editor passes."""

    adapter = Adapter(read=not_from_zero)
    point = adapter.point


class Slow(Small):
    def hparams(self, **flag):
        return SmallHparams(lr=1e-3, **flag)


class FewSteps(Small):
    """As many steps as ``steps`` says: too few for a penalty, or none."""

    def __init__(self, steps):
        self.steps = steps

    def hparams(self, **flag):
        return SmallHparams(v_num_grad_steps=self.steps, **flag)


@pytest.mark.parametrize(
    ("kit", "check", "message"),
    [
        (Twice(), "test_selection_is_the_definition", "2 edits were reported: let run()"),
        (FewSteps(1), "test_selection_is_the_definition", "no step had a penalty: too few"),
        (Slow(), "test_term_is_in_value_and_gradient", "or the learning rate is too small to test"),
        (Slow(), "test_other_prompts_see_the_vector", "or too small a learning rate, to test with"),
        (FewSteps(0), "test_target_grows_likelier", "the edit had no step"),
    ],
)
def test_a_run_that_the_kit_cannot_judge_is_named(kit, check, message):
    assert message in failure(kit, check)


def test_an_adapter_that_is_not_registered_is_noticed():
    kit = Small()
    with pytest.raises(AssertionError, match="SMALL is not attached"):
        kit.setup_method()


def test_each_check_says_that_the_editor_is_not_attached():
    """pytest makes a new object for each, and tears down none whose setup failed."""

    class Unattached:
        """Its declaration is not the one of the kit."""

        @hookimpl
        def sadr_edit_points(self):
            return []

    adapter = Unattached()
    for _ in range(2):
        kit = Small()
        kit.adapter = adapter
        with pytest.raises(AssertionError, match="SMALL is not attached"):
            kit.setup_method()
        assert not sadr_plugin.plugin_manager().is_registered(adapter)
