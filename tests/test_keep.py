"""``sadr.keep``: what the model says of the subject, and of others after the edited statement."""

import logging
import threading
from types import SimpleNamespace

import pytest
import torch

import sadr_plugin
from sadr_plugin import Edit, Prompt, SadrConfig
from sadr_plugin.config import OPENINGS, KeepConfig
from sadr_plugin.errors import ConfigError, SadrError
from sadr_plugin.keep import _texts
from sadr_plugin.keep._keep_terms import ASKED, _Kept, keep_terms
from sadr_plugin.keep._texts import write_texts
from sadr_plugin.method._running import Running
from sadr_plugin.replay._vectors import Vectors
from smalledit.hparams import SmallHparams
from support import SMALL, tiny_llama, word_tokenizer

SETTINGS = {"openings": ["{} is in", "the city of {} is"], "texts": 3, "others": 4, "length": 3}


@pytest.fixture
def request_():
    return {"prompt": "the {} is in", "subject": "tower", "target": "rome"}


def edit(small, model, tok, request, sadr):
    hparams = SmallHparams(sadr=sadr, lr=0.2, v_num_grad_steps=8)
    return small.optimise(model, tok, request, hparams)


def run(small, request_, model=None, **sadr):
    model = model or tiny_llama()
    with sadr_plugin.reports() as found:
        result = edit(small, model, word_tokenizer(), request_, sadr)
    (report,) = found
    return result, report


def test_both_terms_are_in_the_loss_and_fall(small, request_):
    _, free = run(small, request_, gamma=0, keep={**SETTINGS, "weight": 1e-9, "distracted": 1e-9})
    _, held = run(small, request_, gamma=0, keep={**SETTINGS, "weight": 30, "distracted": 30})
    assert held.weights == {"drift": 0, "keep": 30, "keep_distracted": 30}
    first, second = held.steps[0], held.steps[1]
    assert first.terms["keep"] == first.terms["keep_distracted"] == 0, "the vector is zero"
    gained = second.loss - free.steps[1].loss
    added = 30 * (second.terms["keep"] + second.terms["keep_distracted"])
    assert gained == pytest.approx(added, rel=1e-3)
    for name in ("keep", "keep_distracted"):
        assert 0 < held.steps[-1].terms[name] < free.steps[-1].terms[name] / 2


def test_the_divergence_is_what_the_words_say(small, request_):
    """KL(unedited ‖ now), averaged over the tokens of a text from the subject on, then texts."""
    model, tokenizer = tiny_llama(), word_tokenizer()
    settings = {"openings": ["{} is", "now the {} is in"], "texts": 0, "distracted": 0, "parts": 1}
    (delta, _), report = run(
        small, request_, model, gamma=0, num_grad_steps=2, keep={**settings, "weight": 1e-9}
    )
    # One step with Adam from zero: the vector of the second forward is that of the first step.
    (once, _), _ = run(small, request_, tiny_llama(), gamma=0, num_grad_steps=1)
    texts = ["tower is", "now the tower is in"]
    found = []
    for text in texts:
        ids = tokenizer([text], return_tensors="pt")["input_ids"]
        at = text.split().index("tower")

        def add(module, args, output, at=at):
            output = output.clone()
            output[:, at] += once
            return output

        with torch.no_grad():
            before = model(ids).logits.log_softmax(-1)[0, at:]
            hook = model.model.layers[1].mlp.register_forward_hook(add)
            now = model(ids).logits.log_softmax(-1)[0, at:]
            hook.remove()
        found.append((before.exp() * (before - now)).sum(-1).mean())
    expected = torch.stack(found).mean().item()
    assert report.steps[1].terms["keep"] == pytest.approx(expected, rel=1e-3)
    assert not torch.equal(delta, once)


def test_off_by_default_and_by_false(small, request_):
    (without, _), report = run(small, request_, gamma=1)
    assert set(report.weights) == {"drift"}
    (off, _), _ = run(small, request_, gamma=1, keep=False)
    assert torch.equal(off, without)


def test_an_edit_is_the_same_each_time_and_another_with_another_seed(small, request_):
    (one, _), _ = run(small, request_, keep=SETTINGS)
    torch.manual_seed(5)
    (again, _), _ = run(small, request_, tiny_llama(), keep=SETTINGS)
    assert torch.equal(one, again)
    (other, _), _ = run(small, request_, keep={**SETTINGS, "seed": 1})
    assert not torch.equal(one, other)


def test_the_random_numbers_of_others_are_left_alone(small, request_):
    model = tiny_llama()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(small, request_, model, keep=SETTINGS)
    assert torch.equal(torch.rand(3), expected)


def test_with_reuse_and_without_the_vector_is_the_same(small, request_):
    (found, _), report = run(small, request_, keep=SETTINGS)
    (full, _), in_full = run(small, request_, keep=SETTINGS, reuse=False)
    assert report.reused > 0
    assert in_full.reused == 0
    assert (found - full).norm() <= 1e-5 * full.norm()


def test_texts_take_turns(small, request_):
    _, whole = run(small, request_, gamma=0, keep={**SETTINGS, "texts": 0, "parts": 1})
    _, turns = run(small, request_, gamma=0, keep={**SETTINGS, "texts": 0, "parts": 2})
    # By the first step that is not at zero, the vectors are the same.
    assert turns.steps[1].terms["keep"] != pytest.approx(whole.steps[1].terms["keep"], rel=1e-3)
    _, many = run(small, request_, gamma=0, keep={**SETTINGS, "texts": 0, "parts": 9})
    assert many.steps[-1].terms["keep"] > 0, "more parts than texts"


def test_left_padding(small, request_):
    """The rows of a text are where its tokens are, not where a row begins."""
    model = tiny_llama()
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "left"
    with sadr_plugin.reports() as found:
        left = edit(small, model, tokenizer, request_, {"keep": SETTINGS})[0]
    (right, _), report = run(small, request_, keep=SETTINGS)
    assert found[0].steps[1].terms == pytest.approx(report.steps[1].terms, rel=1e-3)
    assert (left - right).norm() <= 1e-3 * right.norm()


def test_the_model_and_its_modules_are_left_as_they_were(small, request_):
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(small, request_, model, keep=SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in vars(m) for m in model.modules())


def test_what_the_log_says(small, request_, caplog):
    caplog.set_level(logging.INFO)
    _, report = run(small, request_, keep=SETTINGS)
    last = report.steps[-1]
    message = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO][-1]
    assert f"keep {last.terms['keep']:.4g} at last (weight 1)" in message
    assert f"keep_distracted {last.terms['keep_distracted']:.4g} at last" in message


def texts_of(monkeypatch, written, config, **edit_):
    """What is kept where the model writes ``written``."""
    asked = []

    def write(_edit, beginnings, length, seed=None):
        asked.append((list(beginnings), length, seed))
        return [written[i % len(written)] for i in range(len(beginnings))]

    monkeypatch.setattr(_texts, "_written", write)
    prompt = Prompt("the ", "tower", " is in")
    known = Edit(tiny_llama(), word_tokenizer(), [prompt], 1, "", target=" Rome", **edit_)
    return write_texts(known, prompt, config), asked


def test_which_texts_are_kept(monkeypatch):
    config = KeepConfig(openings=["{} was"], texts=2, others=4, length=5, seed=3)
    written = [" was rome's", " was high", " stood in PARIS", " was old", " is red", " is blue"]
    texts, asked = texts_of(monkeypatch, written, config, old_target="Paris")
    assert [p.text for p in texts.about] == ["tower was", "tower was high", "tower was old"]
    assert asked == [(["tower"] * 4 + ["The", "In", "A", "The"], 5, 3)]
    assert texts.after[0].text == "the tower is in Rome. The is red"
    begins = [p.text[texts.begin :].split()[0] for p in texts.after]
    assert begins == ["The", "In", "A", "The"]
    assert all(p.subject == "tower" and p.prefix == "the " for p in texts.after)


def test_the_old_object_is_asked_of_the_model(monkeypatch):
    config = KeepConfig(openings=[], texts=1, distracted=0, length=5)
    texts, asked = texts_of(monkeypatch, [" the old city of Paris."], config)
    assert asked[1] == (["the tower is in"], _texts.ANSWER, None), "its likeliest words"
    assert texts.about == [], "all of them state it"
    assert texts.after == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, KeepConfig()),
        (False, None),
        ({}, KeepConfig()),
        ({"weight": "3e-1"}, KeepConfig(weight=0.3)),
        ({"openings": ["{} is"]}, KeepConfig(openings=("{} is",))),
    ],
)
def test_the_setting(value, expected):
    assert SadrConfig.parse({"keep": value}).keep == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("much", "sadr.keep: expected true, false or a mapping of weight, openings"),
        (1, "sadr.keep: expected true, false or a mapping"),
        ({"wait": 1}, "sadr.keep.wait: unknown key; known are weight, openings"),
        ({"weight": -1}, "sadr.keep.weight: expected a number of at least 0, got -1"),
        ({"openings": "{} is"}, 'sadr.keep.openings: expected a list of texts with "{}" in each'),
        ({"openings": ["is"]}, 'sadr.keep.openings: expected "{}" exactly once in each text'),
        ({"texts": -1}, "sadr.keep.texts: Input should be greater than or equal to 0, got -1"),
        ({"length": 0}, "sadr.keep.length: Input should be greater than or equal to 1"),
        ({"parts": 0}, "sadr.keep.parts: Input should be"),
        ({"texts": 1.5, "seed": "x"}, "sadr.keep.seed: "),
    ],
)
def test_a_wrong_setting(value, message):
    with pytest.raises(ConfigError) as error:
        SadrConfig.parse({"keep": value})
    assert message in str(error.value)


def test_the_openings_fit_any_subject():
    assert len(OPENINGS) == 12
    assert all(opening.count("{}") == 1 for opening in OPENINGS)


def running(**changes):
    prompts = [Prompt("the ", "tower", " is in")]
    found = Edit(tiny_llama(), word_tokenizer(), prompts, 1, "model.layers.{}", **changes)
    vectors = Vectors(found.model.model.layers[1], SMALL.editor)
    return Running(SMALL, found, sadr_plugin.plugin_manager().hook, vectors, None)


def test_an_editor_that_edits_no_token_of_the_subject():
    with pytest.raises(ConfigError, match="changes the prompt's last token, not the subject's"):
        keep_terms(running(edited_token="last", target=" rome"), KeepConfig())


def test_an_adapter_without_a_target():
    with pytest.raises(ConfigError, match=r"sadr\.keep\.distracted: the adapter of SMALL does not"):
        keep_terms(running(), KeepConfig())
    (term,) = keep_terms(running(), KeepConfig(distracted=0))
    assert term.name == "keep"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["keep", "keep_distracted"]),
        ({"weight": 0}, ["keep_distracted"]),
        ({"openings": [], "texts": 0}, ["keep_distracted"]),
        ({"others": 0}, ["keep"]),
        ({"weight": 0, "distracted": 0}, []),
    ],
)
def test_a_term_without_texts_or_weight_is_none(settings, names):
    config = SadrConfig.parse({"keep": settings}).keep
    assert [term.name for term in keep_terms(running(target=" rome"), config)] == names


class Mute(torch.nn.Module):
    """A model that is none of transformers', and cannot write."""

    def __init__(self):
        super().__init__()
        self.inner = tiny_llama()
        self.config = self.inner.config

    def forward(self, input_ids, attention_mask=None):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    def get_submodule(self, path):
        return self.inner.get_submodule(path)


def test_a_model_that_cannot_write(small, request_):
    with pytest.raises(SadrError, match="Mute has no generate"):
        run(small, request_, Mute(), keep=True)
    _, report = run(small, request_, Mute(), keep={**SETTINGS, "texts": 0, "distracted": 0})
    assert report.steps[-1].terms["keep"] > 0


def test_where_the_old_object_is_expected_nothing_is_kept(small, request_):
    """What comes next after an opening may be the edited fact itself."""
    model, tokenizer = tiny_llama(), word_tokenizer()
    ids = tokenizer(["tower is"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        likely = model(ids).logits[0].topk(ASKED).indices
    kept = SimpleNamespace(
        before=lambda: model(ids).logits[0], rows=torch.zeros(2, dtype=torch.long)
    )
    only_first = next(t for t in likely[0].tolist() if t not in likely[1].tolist())
    assert _Kept(kept, None)._share.tolist() == [0.5, 0.5]
    assert _Kept(kept, only_first)._share.tolist() == [0, 1]
    both = next(t for t in likely[0].tolist() if t in likely[1].tolist())
    assert _Kept(kept, both)._share.tolist() == [0, 0]


def test_a_single_rewriting_prompt(small, request_):
    """What is run besides begins as the loop's batch does, and is not taken for it."""
    hparams = SmallHparams(
        contexts=["{}"], lr=0.2, sadr={"keep": {**SETTINGS, "openings": ["the {} is in"]}}
    )
    with sadr_plugin.reports() as found:
        small.optimise(tiny_llama(), word_tokenizer(), request_, hparams)
    assert found[0].steps[-1].terms["keep"] > 0
    assert found[0].steps[-1].terms["keep_distracted"] > 0


def test_edits_in_threads_write_the_same_texts(small, request_):
    expected, _ = run(small, request_, keep=SETTINGS)
    found = [None, None]
    models = [tiny_llama() for _ in found]

    def work(place):
        found[place] = edit(small, models[place], word_tokenizer(), request_, {"keep": SETTINGS})

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for vector, _ in found:
        assert (vector - expected[0]).norm() <= 1e-4 * expected[0].norm()


def test_what_a_models_files_recommend_for_writing_is_not_followed(small, request_):
    from transformers import GenerationConfig

    expected, _ = run(small, request_, keep=SETTINGS)
    model = tiny_llama()
    own = model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, repetition_penalty=3.0, num_return_sequences=2, num_beams=2
    )
    found, _ = run(small, request_, model, keep=SETTINGS)
    assert torch.equal(found[0], expected[0])
    assert model.generation_config is own


def test_a_draw_follows_the_probabilities():
    choose = _texts._Choice([2], seed=0)
    scores = torch.tensor([0.1, 0.6, 0.1, 0.2]).log().expand(20000, 4)
    drawn = choose(None, scores).argmax(-1).bincount(minlength=4) / 20000
    assert drawn.tolist() == pytest.approx([0.1 / 0.9, 0.6 / 0.9, 0, 0.2 / 0.9], abs=0.02)
    assert _texts._Choice([1], None)(None, scores[:1]).argmax() == 3


def test_texts_of_which_none_is_left(small, request_, monkeypatch):
    monkeypatch.setattr(_texts, "_states", lambda *_: True)
    settings = {**SETTINGS, "openings": [], "distracted": 0}
    with pytest.warns(UserWarning, match="keep has no text to keep, .* change openings and texts"):
        _, report = run(small, request_, keep=settings)
    assert [step.terms["keep"] for step in report.steps] == [0] * len(report.steps)


@pytest.mark.parametrize(
    ("text", "answer", "states"),
    [
        (" in Rome.", "rome", True),
        (" of Romeo", "Rome", False),
        (" US troops", "US", True),
        (" bus stop", "US", False),
        (" cost 5.0", "5.0", True),
    ],
)
def test_what_states_an_object(text, answer, states):
    assert _texts._states(text, answer) == states


def test_tokens_that_the_model_does_not_have(small, request_):
    """Special tokens that were added to the tokenizer alone: its padding, and another."""

    def edit(*added):
        tokenizer = word_tokenizer()
        if added:
            tokenizer.add_special_tokens({"pad_token": added[0], "cls_token": added[1]})
            assert tokenizer.pad_token_id >= tiny_llama().config.vocab_size
        model = tiny_llama()
        if added:  # the toolkit itself pads with a token that the model has
            tokenizer_alone = word_tokenizer()
            tokenizer.__class__ = type(
                "Padding",
                (type(tokenizer),),
                {"__call__": lambda self, *args, **kwargs: tokenizer_alone(*args, **kwargs)},
            )
        flag = {"gamma": 1.0, "keep": {**SETTINGS, "texts": 2}}
        return small.optimise(model, tokenizer, request_, SmallHparams(sadr=flag))[0]

    torch.testing.assert_close(edit("<new pad>", "<image>"), edit())
