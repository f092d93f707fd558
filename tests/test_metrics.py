"""Every metric by hand, on cases small enough."""

import math
import random

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from sadr_plugin.evaluation import (
    BUILTIN,
    TASKS,
    Estimate,
    Question,
    Record,
    Scorer,
    answer_probability,
    difference,
    estimate,
    holm,
    load,
    ngram_entropy,
    sign_test,
)
from sadr_plugin.evaluation._metrics import probability
from sadr_plugin.evaluation._significance import mean_interval, student_quantile
from sadr_plugin.evaluation._summary import score
from sadr_plugin.models._architectures import ARCHITECTURES, build
from support import WORDS, tiny_llama, word_tokenizer

RECORD = Record(
    key="0",
    subject="tower",
    template="the {} is in",
    target_new="rome",
    target_true="paris",
    paraphrases=(Question("tower in", "rome", "paris"),),
    neighbours=(Question("the louvre is in", "paris", "rome"),),
    relations=(Question("the tower is a", "city", "rome"),),
)


def test_what_is_asked():
    asked = {task: of(RECORD) for task, of in TASKS.items()}
    assert asked["efficacy"] == [Question("the tower is in", "rome", "paris")]
    assert asked["paraphrase"] == list(RECORD.paraphrases)
    assert asked["distracting neighbourhood"] == [
        Question("the tower is in rome. the louvre is in", "paris", "rome")
    ]
    assert asked["distracting relation"] == [
        Question("the tower is in rome. the tower is a", "city", "rome")
    ]
    assert asked["alias"] == []


def log(p):
    return math.log(p)


FIRST = {"relation": [(log(0.5), log(0.2)), (log(0.1), log(0.4))]}  # one of two right
SECOND = {"relation": [(log(0.9), log(0.05))]}  # right
THIRD = {"neighbourhood": [(log(0.3), log(0.3))]}  # a tie is not right


def test_accuracy_and_probability_by_hand():
    found = estimate([FIRST, SECOND, THIRD], "relation")
    assert found.mean == pytest.approx(100 * 2 / 3)
    assert found.questions == 3
    # Residuals of the two records: 1 − 2·⅔ = −⅓ and 1 − ⅔ = ⅓, so the variance is 2·2/9 / 9, that
    # of 4.5 questions; there are three. Two records leave one degree of freedom.
    square = student_quantile(0.975, 1) ** 2 / 3
    half = math.sqrt(square * (2 / 9 + square / 4))
    assert found.low == pytest.approx(100 * (2 / 3 + square / 2 - half) / (1 + square))
    assert found.high == pytest.approx(100 * (2 / 3 + square / 2 + half) / (1 + square))
    by_probability = estimate([FIRST, SECOND], "relation", probability)
    assert by_probability.mean == pytest.approx(100 * (0.5 + 0.1 + 0.9) / 3)
    assert estimate([THIRD], "neighbourhood").mean == 0
    assert estimate([THIRD], "neighbourhood").low is None
    assert estimate([THIRD], "relation") is None


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (60, 2.0003)]
)
def test_student_quantiles(freedom, expected):
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=1e-4)


def test_all_right_is_not_certain():
    """As many questions as records: Wilson's interval of 60 of 60."""
    found = estimate([{"relation": [(0.0, -1.0)] * 2}] * 60, "relation")
    square = student_quantile(0.975, 59) ** 2
    assert (found.mean, found.high) == (100, pytest.approx(100))
    assert found.low == pytest.approx(100 * 60 / (60 + square))


@pytest.mark.parametrize("records", [5, 60])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_intervals_hold_what_they_promise(records, share):
    """95 of a hundred hold the true share, of records whose questions hang together."""
    draw, held = random.Random(0), 0
    for _ in range(400):
        drawn = []
        for _ in range(records):
            own = draw.betavariate(8 * share, 8 * (1 - share))
            answers = [draw.random() < own for _ in range(draw.choice((1, 2, 4)))]
            drawn.append({"relation": [(float(right), 0.5) for right in answers]})
        found = estimate(drawn, "relation")
        held += found.low <= 100 * share <= found.high
    assert held / 400 > 0.93


def test_score_is_the_harmonic_mean_of_what_there_is():
    found = {"efficacy": Estimate(100, 0, 0, 1), "relation": Estimate(50, 0, 0, 1), "alias": None}
    assert score(found) == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert score({"efficacy": Estimate(100, 0, 0, 1), "neighbourhood": Estimate(0, 0, 0, 1)}) == 0
    assert score({}) is None


def test_fluency_by_hand():
    assert ngram_entropy("a a a a a") == 0
    # "a b c d": three 2-grams and two 3-grams, each once.
    expected = (2 / 3 * math.log2(3) + 4 / 3 * math.log2(2)) / 2
    assert ngram_entropy("a b c d") == pytest.approx(expected)
    assert ngram_entropy("") == 0


def test_holm_by_hand():
    """The smallest is multiplied by their number, the next by one less, and none overtakes."""
    found = {("a",): 0.01, ("b",): 0.04, ("c",): 0.03, ("d",): None, ("e",): 0.9}
    corrected = holm(found)
    assert corrected == {
        ("a",): pytest.approx(0.04),
        ("b",): pytest.approx(0.09),
        ("c",): pytest.approx(0.09),
        ("d",): None,
        ("e",): pytest.approx(0.9),
    }
    assert holm({("a",): 0.6, ("b",): 0.7}) == {("a",): 1, ("b",): 1}
    assert holm({}) == {}


def test_sign_test_by_hand():
    right, wrong = {"relation": [(0.0, -1.0)]}, {"relation": [(-1.0, 0.0)]}
    assert sign_test([right] * 5, [wrong] * 5, "relation") == pytest.approx(2 / 32)
    assert sign_test([right] * 5, [right] * 5, "relation") is None
    assert sign_test([right, wrong], [wrong, right], "relation") == 1


def test_a_difference_by_hand():
    """Ten records, one question each: 9 right against 5, and 4 of the 5 errors are alone."""
    right, wrong = {"relation": [(0.0, -1.0)]}, {"relation": [(-1.0, 0.0)]}
    one, other = [right] * 9 + [wrong], [right] * 5 + [wrong] * 5
    found, a, b = (
        f
        for f in (
            difference(one, other, "relation"),
            *(estimate(arm, "relation") for arm in (one, other)),
        )
    )
    phi = (5 * 1 - 4 * 0) / math.sqrt(9 * 1 * 5 * 5)
    below, above = a.mean - a.low, b.high - b.mean
    expected = 40 - math.sqrt(below**2 - 2 * phi * below * above + above**2)
    assert (found.mean, found.low) == (pytest.approx(40), pytest.approx(expected))
    assert found.low < 40 < found.high <= 100
    back = difference(other, one, "relation")
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_a_difference_where_nothing_differs_has_a_width():
    right = {"relation": [(0.0, -1.0)]}
    found = difference([right] * 9, [right] * 9, "relation")
    assert found.mean == 0
    assert found.low < -20 < 20 < found.high
    assert difference([right], [right], "relation").low is None, "one record has no interval"
    assert difference([right], [right], "paraphrase") is None


ENDS = ("now", "<pad>", "then")
PAIRS = [
    ("the tower is in", "rome"),
    ("the tower is in", "paris now the city"),
    ("so", "rome"),
    ("then the louvre is in a city now so then the tower is", "in paris"),
]


@pytest.mark.parametrize("tokens_per_batch", [1, 24, 2048])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj", "gemma2 (softcap)"])
def test_scores_are_the_whole_softmaxs(name, tokens_per_batch):
    """In whatever batches, with or without a model that can leave logits out."""
    architecture = next(found for found in ARCHITECTURES if found.name == name)
    model, tokenizer = build(architecture, "eager"), word_tokenizer()
    found = Scorer(model, tokenizer, tokens_per_batch).answers(PAIRS)
    for (prompt, answer), value in zip(PAIRS, found, strict=True):
        ids = tokenizer(f"{prompt} {answer}", return_tensors="pt")["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        each = [logs[i - 1, ids[0, i]].item() for i in range(start, ids.shape[1])]
        assert value.mean_log_probability == pytest.approx(sum(each) / len(each), abs=1e-4)
        first = [logs[i - 1].argmax().item() == ids[0, i] for i in range(start, ids.shape[1])]
        assert value.chosen == pytest.approx(sum(first) / len(first))


def test_an_answer_is_scored_as_it_stands_after_its_prompt():
    """A SentencePiece tokenizer, as Llama 2's, gives a leading space alone a token of its own."""
    words = ["<unk>", "▁", "▁tower", "▁is", "▁in", "▁rome"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokenizer(" rome")["input_ids"] == [1, 5]
    model, seen = tiny_llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    Scorer(model, tokenizer).answers([("tower is in", "rome")])
    assert seen == [[[2, 3, 4, 5]]]


def test_a_tokenizer_that_ends_each_text_with_a_token():
    model, ending = tiny_llama(), word_tokenizer()
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="now $A <pad> then", special_tokens=[(word, WORDS.index(word)) for word in ENDS]
    )
    assert len(ending("rome")["input_ids"]) == 4
    starting = word_tokenizer()
    starting.backend_tokenizer.post_processor = TemplateProcessing(
        single="now $A", special_tokens=[("now", WORDS.index("now"))]
    )
    assert Scorer(model, ending).answers(PAIRS) == Scorer(model, starting).answers(PAIRS)


def test_the_probability_of_an_answer():
    model, tokenizer = tiny_llama(), word_tokenizer()
    (answer,) = Scorer(model, tokenizer).answers([PAIRS[0]])
    probability = math.exp(answer.mean_log_probability)
    assert answer_probability(model, tokenizer, *PAIRS[0]) == pytest.approx(probability)


def test_no_more_logits_than_needed(monkeypatch):
    model, tokenizer = tiny_llama(), word_tokenizer()
    shapes, whole = [], []
    model.lm_head.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape)))
    model.lm_head.register_forward_hook(lambda m, args, out: whole.append(args[0].is_contiguous()))
    Scorer(model, tokenizer).answers([PAIRS[0], ("a tower is now", "paris")])
    assert shapes == [(2, 2, len(tokenizer))]
    assert whole == [True], "else torch takes a product for each row"
    # Of rows that end far apart, each keeps its own end.
    long = "so then the tower is in a city " * 50 + "now the louvre is in"
    shapes.clear()
    Scorer(model, tokenizer).answers([PAIRS[0], (long, "paris")])
    assert [shape[:2] for shape in shapes] == [(1, 2), (1, 2)]
    assert torch.is_grad_enabled()


def test_smollm2_gets_the_builtin_records_right(smol):
    model, tokenizer = smol
    records = load(BUILTIN).records
    assert len(records) >= 60
    assert len({record.prompt for record in records}) == len(records)
    for record in records:
        assert len(record.paraphrases) == 2
        assert len(record.neighbours) >= 2
        assert record.relations
        assert record.openings
    scorer = Scorer(model, tokenizer)
    for task in ("efficacy", "neighbourhood", "relation"):
        asked = [question for record in records for question in TASKS[task](record)]
        pairs = [[(q.prompt, q.right) for q in asked], [(q.prompt, q.wrong) for q in asked]]
        right, wrong = (
            [answer.mean_log_probability for answer in scorer.answers(part)] for part in pairs
        )
        if task == "efficacy":  # there the edit's object is the one that counts as right
            right, wrong = wrong, right
        assert all(r > w for r, w in zip(right, wrong, strict=True)), task


def test_the_interval_of_a_mean():
    """Student's t with two degrees of freedom is 4.3027 at 0.975."""
    low, high = mean_interval([11, 12, None, 13])
    assert (low, high) == pytest.approx((12 - 4.3027 / 3**0.5, 12 + 4.3027 / 3**0.5), abs=1e-4)
    assert mean_interval([0, 0.1, 0.2])[0] == 0, "a drift is not negative"
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    for unknown in ([], [1], [1, None], [1, math.nan], [1, math.inf]):
        assert mean_interval(unknown) is None
