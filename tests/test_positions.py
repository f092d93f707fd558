import pytest
import torch

from sadr_plugin import Prompt
from sadr_plugin.attention._positions import locate, tokenize
from sadr_plugin.errors import PositionError

SUBJECTS = [
    "The Eiffel Tower",
    "Österreich 🗼",
    "東京タワー",
    "Mr. {x}".replace("{x}", "O'Neil"),
    "A",
]
TEMPLATES = [
    "{} is in",
    "However, {}'s home is",
    "In 1999 {}",
    "the {} and the {{".replace("{{", "("),
]


@pytest.fixture(scope="module")
def tokenizer(smol):
    return smol[1]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_edited_token_ends_the_subject(tokenizer, subject, template):
    prompt = Prompt.from_template(template, subject)
    tokens = tokenize(tokenizer, prompt)
    up_to = tokenizer.decode(tokens.ids[: tokens.edited + 1])
    before = tokenizer.decode(tokens.ids[: tokens.edited])
    assert up_to.startswith(prompt.prefix + subject)
    assert len(before) < len(prompt.prefix + subject) or "�" in before


def test_every_edited_token(tokenizer):
    prompt = Prompt.from_template("So {} is in the city of", "The Eiffel Tower")

    def token(where):
        tokens = tokenize(tokenizer, prompt, where)
        return tokenizer.decode(tokens.ids[tokens.edited])

    assert token("subject_first") == " The"
    assert token("subject_last") == " Tower"
    assert token("subject_first_after_last") == " is"
    assert token("last") == " of"
    with pytest.raises(
        PositionError, match=r"^edited_token: 'middle' is not one of 'subject_last'"
    ):
        tokenize(tokenizer, prompt, "middle")


def test_a_subject_that_occurs_twice_is_the_one_of_the_template(tokenizer):
    prompt = Prompt.from_template("Rome. {} is in", "Rome")
    tokens = tokenize(tokenizer, prompt)
    assert tokenizer.decode(tokens.ids[: tokens.edited + 1]) == "Rome. Rome"


def test_without_offsets_tokens_are_counted(word_tokenizer, monkeypatch):
    prompt = Prompt.from_template("so the {} is in", "eiffel tower")
    with_offsets = tokenize(word_tokenizer, prompt)
    monkeypatch.setattr(type(word_tokenizer), "is_fast", False)
    assert tokenize(word_tokenizer, prompt) == with_offsets
    assert with_offsets.edited == 3


@pytest.mark.parametrize("template", ["no place for it", "{} and {}"])
def test_a_template_needs_the_subject_once(template):
    with pytest.raises(PositionError, match="exactly once"):
        Prompt.from_template(template, "Rome")


def test_an_empty_subject_is_refused():
    with pytest.raises(PositionError, match="empty"):
        Prompt.from_template("{} is in", " ")


def test_a_subject_the_tokenizer_drops_is_refused(word_tokenizer):
    with pytest.raises(PositionError, match="no token of the subject"):
        tokenize(word_tokenizer, Prompt("so ", "", " is in"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("target", [" Rome", " New York City"])
def test_positions_in_a_padded_batch_by_decoding(tokenizer, side, target):
    subject = "The Eiffel Tower"
    templates = ["{} is in", "Long ago and far away {} is in the city of", "So {} stands in"]
    prompts = [Prompt.from_template(template, subject) for template in templates]
    tokens = [tokenize(tokenizer, prompt) for prompt in prompts]
    texts = [prompt.text + target for prompt in prompts] + [subject + " is a"]
    batch = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")
    positions = locate(tokens, batch["input_ids"], batch["attention_mask"])
    assert len(positions.prediction) == 3
    for row, (prompt, where) in enumerate(zip(prompts, positions.prediction, strict=True)):
        real = batch["input_ids"][row, : where + 1][batch["attention_mask"][row, : where + 1] == 1]
        assert tokenizer.decode(real) == prompt.text
        assert tokenizer.decode(batch["input_ids"][row, positions.subject[row]]) == " Tower"


def test_where_prompt_and_target_merge_the_prediction_is_the_last_token_before(tokenizer):
    tokens = [tokenize(tokenizer, Prompt.from_template("{} has a foot", "Rome"))]
    batch = tokenizer(["Rome has a football"], return_tensors="pt")
    positions = locate(tokens, batch["input_ids"], None)
    assert tokenizer.decode(batch["input_ids"][0, positions.prediction[0]]) == " a"


def test_another_batch_is_not_the_loops(tokenizer):
    tokens = [tokenize(tokenizer, Prompt.from_template("{} is in", "Rome"))]
    other = tokenizer(["Paris is in", "Rome is in"], return_tensors="pt")
    assert locate(tokens, other["input_ids"], other["attention_mask"]) is None
    assert locate(tokens * 3, other["input_ids"], None) is None
    assert locate(tokens, torch.zeros(1, 4, 8), None) is None
