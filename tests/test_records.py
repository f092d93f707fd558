"""Files of records: every format by its content, and everything that can be wrong with one."""

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sadr_plugin.errors import DataError
from sadr_plugin.evaluation import Question, load, sample
from sadr_plugin.evaluation._formats import schema
from sadr_plugin.evaluation._items import MARKS

COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle",
    },
    "paraphrase_prompts": ["Danielle, a native"],
    "neighborhood_prompts": ["The mother tongue of Leon is"],
    "generation_prompts": ["Danielle's mother tongue is"],
}
MERGED = {
    "requested_rewrite": {
        "prompt": "The mother tongue of Danielle is",
        "target_new": "English",
        "target_true": "French",
        "subject": "Danielle",
    },
    "rewrite": {"prompts": ["The mother tongue of Danielle is"], "targets": ["English"]},
    "p-paraphrase": {"prompts": ["Danielle, a native"], "targets": ["English"]},
    "p-subject_alias": {"prompts": ["Dani's mother tongue is"], "targets": ["English"]},
    "l-neighbor": {"prompts": ["The mother tongue of Leon is"], "targets": ["French"]},
    "l-relation": {"prompts": ["Danielle was born in"], "targets": ["Lyon"]},
    "generation": {"prompts": ["Danielle's mother tongue is"]},
    "o-commonsense": {"prompts": "How long?", "right": "Overnight", "wrong": "Over easy"},
}
WIKIDATA = {
    "subject": "Danielle",
    "prompt": "The mother tongue of Danielle is",
    "target_new": "English",
    "ground_truth": ["French", "français"],
    "portability": {
        "Subject_Aliasing": [{"prompt": "Dani's mother tongue is", "ground_truth": [["English"]]}]
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Danielle was born in", "ground_truth": [["Lyon"]]}]
    },
}
KNOWEDIT = {
    "subject": "Danielle",
    "prompt": "What is the mother tongue of Danielle?",
    "target_new": "English",
    "ground_truth": ["French"],
    "rephrase_prompt": "Which is Danielle's first language?",
    "portability": {
        "Reasoning": [{"prompt": "Danielle's greeting is", "ground_truth": "Hello"}],
        "Logical_Generalization": [
            {"prompt": "Is Danielle a native of French?", "ground_truth": [["no"], ["wrong"]]},
            {"prompt": "Who shares Danielle's mother tongue?", "ground_truth": [[""]]},
        ],
        "Subject_Aliasing": None,
    },
    "locality": {
        "Relation_Specificity": {
            "prompt": ["Danielle was born in", "Danielle works as"],
            "ground_truth": [["Lyon", "Lugdunum"], "a dancer"],
        },
        "Forgetfulness": [
            {
                "prompt": ["Danielle's mother tongue, which is not English, is"],
                "ground_truth": [["French"]],
            }
        ],
    },
}
ZSRE = {
    "subject": "Danielle",
    "src": "What is the mother tongue of Danielle?",
    "rephrase": "Which is Danielle's first language?",
    "alt": "English",
    "answers": ["French"],
    "loc": "nq question: who wrote hamlet",
    "loc_ans": "Shakespeare",
}
FLAT = {
    "case_id": 3,
    "subject": "Danielle",
    "prompt": "The mother tongue of {} is",
    "target_new": "English",
    "target_true": "French",
    "paraphrase_prompts": ["Danielle, a native"],
    "neighborhood_prompts": ["The mother tongue of Leon is"],
    "generation_prompts": ["Danielle's mother tongue is"],
}
ONE_HOP = {
    "Recalled Relation": "(English, writing system, Latin)",
    "New Question": "Which letters does Danielle write?",
    "New Answer": "Latin",
}
MQUAKE = {
    "case_id": 11,
    "requested_rewrite": [
        {**COUNTERFACT["requested_rewrite"], "question": "What is Danielle's mother tongue?"}
    ],
    "questions": ["Which letters does Danielle write?", "In which letters does Danielle write?"],
    "answer": "Roman",
    "new_answer": "Latin",
    "single_hops": [{"question": "What does Danielle speak?", "answer": "French"}],
}
PARAPHRASE = (Question("Danielle, a native", "English", "French"),)
NEIGHBOUR = (Question("The mother tongue of Leon is", "French", "English"),)
ALIAS = (Question("Dani's mother tongue is", "English", "French"),)
RELATION = (Question("Danielle was born in", "Lyon", "English"),)
HOPS = tuple(Question(prompt, "Latin", "French") for prompt in MQUAKE["questions"])
FLAT_EXPECTED = {
    "key": "3",
    "template": "The mother tongue of {} is",
    "paraphrases": PARAPHRASE,
    "neighbours": NEIGHBOUR,
    "openings": ("Danielle's mother tongue is",),
}


def without(item, *path):
    item = json.loads(json.dumps(item))
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return item


def changed(item, value, *path):
    item = json.loads(json.dumps(item))
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return item


def write(tmp_path, content):
    file = tmp_path / "data.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (FLAT, FLAT_EXPECTED),
        (
            {**FLAT, "target_new": {"str": "English"}, "target_true": {"str": "French"}}
            | {"prompt": "The mother tongue of Danielle is"},
            FLAT_EXPECTED,
        ),
        (
            changed(FLAT, [{"prompt": "Leon speaks", "target": "Dutch"}], "neighborhood_prompts"),
            {"neighbours": (Question("Leon speaks", "Dutch", "English"),)},
        ),
        ({**ZSRE, "portability": ONE_HOP}, {"consequences": HOPS[:1]}),
        ({**COUNTERFACT, "portability": ONE_HOP}, {"key": "7", "consequences": HOPS[:1]}),
        (
            MQUAKE,
            {
                "key": "11",
                "consequences": tuple(Question(q.prompt, q.right, "Roman") for q in HOPS),
            },
        ),
        (
            {"prompt": FLAT["prompt"], "alt": "English", "subject": "Danielle"}
            | {"answers": ["French"], "rephrase_prompt": "Danielle, a native"},
            {"paraphrases": PARAPHRASE},
        ),
        (COUNTERFACT, {"key": "7", "paraphrases": PARAPHRASE, "neighbours": NEIGHBOUR}),
        (
            MERGED,
            {
                "key": "0",
                "paraphrases": PARAPHRASE,
                "aliases": ALIAS,
                "neighbours": NEIGHBOUR,
                "relations": RELATION,
                "openings": ("Danielle's mother tongue is",),
            },
        ),
        (WIKIDATA, {"aliases": ALIAS, "relations": RELATION}),
        (
            changed(
                WIKIDATA,
                {"prompt": ["Danielle was born in"], "ground_truth": "Lyon"},
                "locality",
                "Relation_Specificity",
            ),
            {"relations": RELATION},
        ),
        (
            ZSRE,
            {
                "template": "What is the mother tongue of {}?",
                "paraphrases": (
                    Question("Which is Danielle's first language?", "English", "French"),
                ),
                "neighbours": (Question("who wrote hamlet", "Shakespeare", "English"),),
            },
        ),
        (
            KNOWEDIT,
            {
                "paraphrases": (
                    Question("Which is Danielle's first language?", "English", "French"),
                ),
                "aliases": (),
                "consequences": (
                    Question("Danielle's greeting is", "Hello", "French"),
                    Question("Is Danielle a native of French?", "no", "French"),
                ),
                "relations": (*RELATION, Question("Danielle works as", "a dancer", "English")),
                "reminders": (
                    Question(
                        "Danielle's mother tongue, which is not English, is", "French", "English"
                    ),
                ),
            },
        ),
        (
            {
                "subject": "Danielle",
                "prompt": "What is the mother tongue of Danielle?",
                "target_new": "English",
                "ground_truth": "French",
                "rephrase_prompt": ["Danielle, a native"],
                "loc": "who wrote hamlet",
                "loc_ans": "Shakespeare",
            },
            {
                "paraphrases": PARAPHRASE,
                "neighbours": (Question("who wrote hamlet", "Shakespeare", "English"),),
            },
        ),
    ],
    ids=[
        "flat",
        "flat-names",
        "own-answers",
        "one-hop",
        "counterfact-one-hop",
        "mquake",
        "mixed-names",
        "counterfact",
        "merged",
        "wikidata",
        "one-prompt-in-a-list",
        "zsre",
        "knowedit",
        "newer-names",
    ],
)
def test_every_format(tmp_path, item, expected):
    (record,) = load(write(tmp_path, [item])).records
    assert record.subject == "Danielle"
    assert (record.target_new, record.target_true) == ("English", "French")
    assert (
        record.prompt.replace("What is the", "The")
        .rstrip("?")
        .startswith("The mother tongue of Danielle")
    )
    for name, value in expected.items():
        assert getattr(record, name) == value, name


@pytest.mark.parametrize(
    ("subject", "prompt", "template"),
    [
        ("Art", "The Artist Art lived in", "The Artist {} lived in"),
        ("Art", "Art's city is", "{}'s city is"),
        ("AT&T", "The boss of AT&T is", "The boss of {} is"),
        ("Wham!", "Wham!'s singer is", "{}'s singer is"),
        ("2 Fast", "2 Fast was made by", "{} was made by"),
        ("2", "12 and 2 are", "12 and {} are"),
        ("Art", "Art and Art are", "{} and Art are"),
        ("Élan", "Le vélan et Élan sont", "Le vélan et {} sont"),
        ("エッフェル塔", "エッフェル塔は", "{}は"),
        ("埃菲尔铁塔", "埃菲尔铁塔位于", "{}位于"),
        ("파리", "파리는", "{}는"),
        ("iPhone", "iPhoneは", "{}は"),
        ("Rene", "Rene\u0301 and Rene are", "Rene\u0301 and {} are"),
        ("राम", "रामायण, राम", "रामायण, {}"),
    ],
)
def test_the_subject_is_found_by_words(tmp_path, subject, prompt, template):
    item = {"subject": subject, "prompt": prompt, "target_new": "a", "ground_truth": "b"}
    (record,) = load(write(tmp_path, [item])).records
    assert record.template == template
    assert record.prompt == prompt


def test_json_lines_and_the_statement(tmp_path):
    lines = "\n".join(json.dumps(item) for item in (MERGED, COUNTERFACT))
    records = load(write(tmp_path, lines)).records
    assert [record.key for record in records] == ["0", "7"]
    assert records[0].statement == "The mother tongue of Danielle is English."


BAD: list[tuple[Any, str]] = [
    (without(MERGED, "requested_rewrite", "subject"), "rewrite.subject: is missing"),
    (changed(MERGED, 3, "requested_rewrite", "target_new"), "requested_rewrite.target_new: "),
    (
        changed(MERGED, "Leon", "requested_rewrite", "subject"),
        "subject: 'Leon' is not in the prompt",
    ),
    (changed(MERGED, [], "l-relation", "targets"), "1 prompts, but 0 targets"),
    (changed(MERGED, [[]], "l-relation", "targets"), "l-relation.targets.0"),
    (changed(COUNTERFACT, "{} of {}", "requested_rewrite", "prompt"), "more than once"),
    (changed(COUNTERFACT, "{} {is", "requested_rewrite", "prompt"), "holds a brace besides"),
    (changed(COUNTERFACT, "", "requested_rewrite", "prompt"), "requested_rewrite.prompt"),
    (
        changed(COUNTERFACT, {"id": "Q1"}, "requested_rewrite", "target_new"),
        "target_new: expected text",
    ),
    (changed(WIKIDATA, [], "ground_truth"), "ground_truth"),
    (without(ZSRE, "answers"), "answers: is missing"),
    (without(WIKIDATA, "ground_truth"), "ground_truth: is missing or empty, and"),
    (changed(WIKIDATA, None, "ground_truth"), "ground_truth: is missing or empty"),
    (changed(WIKIDATA, [[""]], "ground_truth"), "ground_truth: is missing or empty"),
    (changed(WIKIDATA, " ", "target_new"), "target_new: must not be blank"),
    (
        {"concept": "x", "text": "x is", "labels": "y"},
        "concept: a text about a concept has no object",
    ),
    (changed(ZSRE, 3, "loc_ans"), "loc_ans: expected text, got 3"),
    (
        changed(KNOWEDIT, [3, 4], "locality", "Relation_Specificity", "ground_truth"),
        "ground_truth: expected text, got 3",
    ),
    (
        changed(WIKIDATA, "Dan", "subject"),
        "subject: 'Dan' is in the prompt 'The mother tongue of Danielle is' only as part of",
    ),
    (changed(WIKIDATA, "French ", "target_new"), "target_new: 'French ' is the true object"),
    ("text", "expected an object, got 'text'"),
    (None, "expected an object, got None"),
    ({}, "is in no known format: it has no keys. An edit needs"),
    ({"row_idx": 0, "row": MERGED}, "it has 'row_idx', 'row'"),
    (changed(MERGED, 3, "requested_rewrite"), "requested_rewrite: expected an object, got"),
    (changed(COUNTERFACT, 3, "requested_rewrite"), "requested_rewrite: expected an object"),
    (changed(COUNTERFACT, {"a": 1}, "paraphrase_prompts"), "paraphrase_prompts: expected"),
    (changed(COUNTERFACT, [{"a": 1}], "neighborhood_prompts"), "prompts.0.prompt: is missing"),
    (changed(COUNTERFACT, 1.5, "case_id"), "case_id: Input should be a valid integer"),
    (
        {**COUNTERFACT, "requested_rewrite": [COUNTERFACT["requested_rewrite"]] * 3},
        "requested_rewrite: a list of 3 edits; every record here is one edit",
    ),
    (changed(COUNTERFACT, [], "requested_rewrite"), "requested_rewrite: a list of 0 edits"),
    (changed(FLAT, {}, "target_true"), "target_true: expected text"),
    (changed(FLAT, "", "target_true"), "ground_truth: is missing or empty, and every score"),
    (changed(FLAT, 3, "subject"), "subject: expected text, got 3"),
    (changed(FLAT, "Dani\ud800", "subject"), "subject: expected Unicode text"),
    (changed(ZSRE, "\ud800", "loc_ans"), "loc_ans: '\\ud800' is no Unicode text"),
    (
        changed(KNOWEDIT, [{"prompt": 3}], "portability", "Reasoning"),
        "prompt: expected text, got 3",
    ),
    (
        {"edit": {"prompt": "Danielle speaks English", "subject_id": "Q1", "target_id": "Q2"}},
        "edit: has the id of its subject, and not the text",
    ),
    (
        {"edit": {"prompt": "Danielle speaks", "subject": "Danielle", "target": "English"}},
        "edit: its true object is missing",
    ),
]


@pytest.mark.parametrize(("item", "message"), BAD)
def test_a_bad_record_is_named_or_skipped(tmp_path, item, message):
    file = write(tmp_path, [MERGED, item, COUNTERFACT])
    with pytest.raises(DataError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: record 1: ")
    assert message in str(caught.value)
    data = load(file, skip_bad=True)
    assert [record.key for record in data.records] == ["0", "7"]
    assert len(data.skipped) == 1
    assert message in data.skipped[0]


def test_groups_that_are_not_asked_are_named(tmp_path):
    asked = [{"prompt": "Danielle sings", "ground_truth": "no"}]
    others = {"Subject_Aliasing": asked, "Two_Hops": asked, "Empty": []}
    stranger = {**MERGED, "portability": ["another format's"]}
    reasoning = {**MERGED, "p-reasoning": {"prompts": ["It is"], "targets": ["so"]}}
    items = [changed(KNOWEDIT, others, "portability"), KNOWEDIT, stranger, reasoning]
    data = load(write(tmp_path, items))
    assert len(data.records) == 4
    assert data.not_asked == {"portability.Two_Hops": 1, "p-reasoning": 1, "o-commonsense": 2}


EASYEDIT = {
    "subject": "Danielle",
    "prompt": "What is the mother tongue of Danielle?",
    "target_new": "English",
    "ground_truth": "French",
    "rephrase_prompt": "Danielle, a native",
    "locality_prompt": "The mother tongue of Leon is",
    "locality_ground_truth": "French",
}
EMPTY = [None, "", " ", [], [None, ""]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(value, ()) for value in EMPTY] + [(["", "Danielle, a native"], PARAPHRASE)],
)
def test_empty_paraphrases_do_not_count(tmp_path, value, expected):
    items = [changed(EASYEDIT, value, "rephrase_prompt"), changed(ZSRE, value, "rephrase")]
    records = load(write(tmp_path, items)).records
    assert [record.paraphrases for record in records] == [expected, expected]


@pytest.mark.parametrize("value", [None, "", [], {}, {"Reasoning": "", "Forgetfulness": None}])
@pytest.mark.parametrize("key", ["portability", "locality"])
def test_no_groups(tmp_path, key, value):
    data = load(write(tmp_path, [changed(KNOWEDIT, value, key)]))
    assert data.records[0].paraphrases
    assert data.not_asked == {}


TWO = ["Danielle was born in", "Danielle works as"]


@pytest.mark.parametrize(
    ("prompt", "answers", "expected"),
    [
        (TWO, "Lyon", RELATION),
        (TWO, ["Lyon"], RELATION),
        (TWO, [["Lyon", "Lugdunum"], ["a dancer"], ["more"]], RELATION),
        (TWO, [["Lyon"], None], RELATION),
        (["", TWO[0]], ["a dancer", "Lyon"], RELATION),
        *((TWO, value, ()) for value in (None, "", [], [[""]], [None, None])),
        *((value, "Lyon", ()) for value in EMPTY),
    ],
)
def test_lists_are_read_as_in_easyedit(tmp_path, prompt, answers, expected):
    """In pairs if there are as many of each; otherwise the first of each counts."""
    fact = {"prompt": prompt, "ground_truth": answers}
    item = changed(KNOWEDIT, fact, "locality", "Relation_Specificity")
    (record,) = load(write(tmp_path, [item])).records
    assert record.relations == expected


def test_a_question_without_its_answers_key(tmp_path):
    item = changed(KNOWEDIT, {"prompt": TWO[0]}, "locality", "Relation_Specificity")
    assert load(write(tmp_path, [item])).records[0].relations == ()


@pytest.mark.parametrize("keys", [("locality_prompt", "locality_ground_truth"), ("loc", "loc_ans")])
def test_neighbours_under_either_name(tmp_path, keys):
    prompt, answer = keys
    item = without(without(EASYEDIT, "locality_prompt"), "locality_ground_truth")
    good = {**item, prompt: "The mother tongue of Leon is", answer: "French"}
    items = [good, item, {**good, answer: None}, {**good, prompt: ""}]
    records = load(write(tmp_path, items)).records
    assert [record.neighbours for record in records] == [NEIGHBOUR, (), (), ()]


def test_a_question_that_no_model_can_win_is_left_out(tmp_path):
    file = write(tmp_path, [changed(MERGED, ["English"], "l-relation", "targets"), MERGED])
    lost, kept = (record.relations for record in load(file).records)
    assert lost == ()
    assert kept == (Question("Danielle was born in", "Lyon", "English"),)


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_truncated_json(tmp_path, cut):
    file = write(tmp_path, json.dumps([MERGED, COUNTERFACT])[:-cut])
    with pytest.raises(DataError, match=r"record [12]: is no JSON: "):
        load(file)
    data = load(file, skip_bad=True)
    assert len(data.records) == (2 if cut == 1 else 1)
    assert len(data.skipped) == 1


def test_a_bad_line_says_nothing_of_the_next(tmp_path):
    lines = [json.dumps(MERGED), '{"subject": ', json.dumps(COUNTERFACT)]
    data = load(write(tmp_path, "\n".join(lines)), skip_bad=True)
    assert len(data.records) == 2
    assert len(data.skipped) == 1


def test_a_line_of_a_hundred_megabytes(tmp_path):
    huge = json.dumps({"subject": "x" * 100_000_000})
    data = load(write(tmp_path, "\n".join([json.dumps(MERGED), huge])), skip_bad=True)
    assert len(data.records) == 1
    assert len(data.skipped[0]) < 200


@pytest.mark.parametrize("content", ["", "[]", "   \n", "{}", "[[[["])
def test_a_file_without_records(tmp_path, content):
    with pytest.raises(DataError, match=r"data\.json: "):
        load(write(tmp_path, content))
    with pytest.raises(DataError, match="holds no usable record"):
        load(write(tmp_path, content), skip_bad=True)


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "data.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot be read as UTF-8 text: .*; save it as UTF-8"):
        load(file)
    with pytest.raises(DataError, match="cannot be read: "):
        load(tmp_path)
    with pytest.raises(DataError, match=r"none\.json"):
        load(tmp_path / "none.json")


def test_the_schema_knows_every_format():
    names = [form["$ref"].rpartition("/")[2] for form in schema()["items"]["anyOf"]]
    assert names == ["CounterFact", "FlatCounterFact", "Merged", "KnowEdit", "ZsRE"]
    assert "p-paraphrase" in str(schema())


def test_every_reference_of_the_schema_is_answered():
    named = set(re.findall(r"#/\$defs/(\w+)", json.dumps(schema())))
    assert named == schema()["$defs"].keys()


@pytest.mark.parametrize(
    "item",
    [
        *(COUNTERFACT, MERGED, WIKIDATA, KNOWEDIT, ZSRE, EASYEDIT, FLAT, MQUAKE),
        {**ZSRE, "portability": ONE_HOP},
        changed(FLAT, [{"prompt": "Leon speaks", "target": "Dutch"}], "neighborhood_prompts"),
        changed(FLAT, {"str": "French"}, "target_true"),
        changed(changed(EASYEDIT, "", "rephrase_prompt"), None, "locality_prompt"),
        changed(changed(KNOWEDIT, None, "portability"), None, "locality"),
    ],
)
def test_the_schema_takes_what_is_read(item):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema()).validate([item])


def test_the_schema_refuses_what_is_not_read():
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(schema())
    for item in (changed(WIKIDATA, [], "ground_truth"), without(ZSRE, "answers"), "text"):
        assert not check.is_valid([item])


def test_a_sample_is_the_seeds(tmp_path):
    records = load(write(tmp_path, [MERGED] * 20)).records
    chosen = [record.key for record in sample(records, 5, seed=1)]
    assert chosen == [record.key for record in sample(records, 5, seed=1)]
    assert chosen != [record.key for record in sample(records, 5, seed=2)]
    assert chosen == sorted(chosen, key=int)
    assert sample(records, None, seed=1) == records


def test_two_records_of_one_name(tmp_path):
    """Their results could not be told apart."""
    file = tmp_path / "twice.json"
    file.write_text(json.dumps([COUNTERFACT, COUNTERFACT]))
    with pytest.raises(DataError, match="record 1: case_id: 7 is an earlier record's"):
        load(file)
    assert len(load(file, skip_bad=True).records) == 1


def test_a_case_id_is_no_place(tmp_path):
    """The first record has no case_id, and its number is another's."""
    items = [without(FLAT, "case_id"), changed(FLAT, 0, "case_id"), changed(FLAT, "#0", "case_id")]
    keys = [record.key for record in load(write(tmp_path, [*items, MERGED])).records]
    assert keys == ["##0", "0", "#0", "3"]


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "content",
    [
        MARK + json.dumps([FLAT, KNOWEDIT]).encode(),
        MARK + b"\n".join(json.dumps(item).encode() for item in (FLAT, KNOWEDIT)),
        b"\r\n".join(MARK + json.dumps(item).encode() for item in (FLAT, KNOWEDIT)),
    ],
    ids=["list", "lines", "marked-lines"],
)
def test_a_byte_order_mark(tmp_path, content):
    file = tmp_path / "data.json"
    file.write_bytes(content)
    assert len(load(file).records) == 2


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"dataset": "mine", "num_records": 2, "records": [KNOWEDIT, ZSRE]}, ["0", "1"]),
        ({"data": [KNOWEDIT], "authors": [{"name": "I"}]}, ["0"]),
        ({"prompt": "of all", "train": [FLAT]}, ["3"]),
        ({"data": {"edits": [KNOWEDIT]}}, ["0"]),
        ({"0": KNOWEDIT, "8": ZSRE}, ["0", "8"]),
        ({"version": 2, "data": {"a": COUNTERFACT, "b": KNOWEDIT}}, ["7", "b"]),
        (KNOWEDIT, ["0"]),
        (changed(MERGED, {}, "rewrite"), ["0"]),
    ],
)
def test_an_object_around_the_records(tmp_path, content, keys):
    assert [record.key for record in load(write(tmp_path, content)).records] == keys


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({key: {"0": value, "1": value} for key, value in FLAT.items()}, "is a table by columns"),
        ({key: [value, value] for key, value in FLAT.items()}, "is a table by columns"),
        (
            {"case_id": {"0": 1}, "requested_rewrite": {"0": COUNTERFACT["requested_rewrite"]}},
            "is a table by columns",
        ),
        ({"data": {key: {"0": value} for key, value in FLAT.items()}}, "is a table by columns"),
        ({"train": [FLAT], "test": [FLAT]}, "has several lists of objects, under 'train', 'test'"),
        ({"columns": list(FLAT), "data": [list(FLAT.values())]}, "it has 'columns', 'data'"),
        ({"records": [{"question": "Why?"}]}, "record 0: is in no known format: it has 'records'"),
        ([{"input": "Why?", "output": [KNOWEDIT]}], "it has 'input', 'output'"),
        ({"input": "Why?", "output": [{"answer": "So."}]}, "it has 'input', 'output'"),
        ({"0": KNOWEDIT, "8": 3}, "record 8: expected an object, got 3"),
    ],
)
def test_an_object_without_records(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        load(write(tmp_path, content))
    assert message in str(caught.value)


def test_groups_in_unknown_layouts_are_not_asked(tmp_path):
    named = {
        "portability": "a text",
        "portability.New Question": {"New Question": "Why?", "New Answer": ""},
        "portability.Reasoning": {"Reasoning": [3]},
    }
    for name, groups in named.items():
        data = load(write(tmp_path, [changed(KNOWEDIT, groups, "portability"), KNOWEDIT]))
        assert data.not_asked == {name: 1}
    assert load(write(tmp_path, [{**ZSRE, "portability": ONE_HOP}])).not_asked == {}
    assert load(write(tmp_path, [MQUAKE])).not_asked == {"single_hops": 1}


def test_no_private_name_is_in_a_message(tmp_path):
    """Pydantic's own words name classes."""
    wrong = [3, "x", [], [3], {"a": 3}, None, {"prompt": 3}, [{"prompt": [3]}]]
    for item in (COUNTERFACT, FLAT, MERGED, WIKIDATA, KNOWEDIT, ZSRE, MQUAKE):
        for key in item:
            for value in wrong:
                try:
                    load(write(tmp_path, [changed(item, value, key)]))
                except DataError as error:
                    found = str(error).removeprefix(str(tmp_path))
                    assert not re.search(r"\b_[A-Z]|function-|\[_|CounterFactEdit", found), found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *COUNTERFACT,
                    *FLAT,
                    *KNOWEDIT,
                    *ZSRE,
                    *ONE_HOP,
                    *MQUAKE,
                    *MARKS,
                    "str",
                    "records",
                    "edit",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(content=json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_json_is_read_or_refused(tmp_path, content):
    file = write(tmp_path, json.dumps(content))
    for skip_bad in (False, True):
        with contextlib.suppress(DataError):
            load(file, skip_bad)
