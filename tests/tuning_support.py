"""An editor that tuning can improve, records that a model knows, and results by count."""

import torch

from evaluation_support import SmallEditor
from sadr_plugin.errors import ConfigError
from sadr_plugin.evaluation import (
    UNEDITED,
    Dimension,
    LocalEngine,
    Question,
    Record,
    Result,
)
from sadr_plugin.evaluation._metrics import DISTRACTED
from sadr_plugin.tuning import (
    Baselines,
    Search,
    Setup,
    Space,
    TrialEvaluator,
    TrialTask,
)
from support import tiny_llama, word_tokenizer

FACTS = ("city", "rome", "paris", "batch", "of", "now", "eiffel", "so", "then", "louvre")


def records(count=10):
    """One of a subject each; the model is made to know what is asked of it."""
    model, tokenizer = tiny_llama().requires_grad_(False), word_tokenizer()
    found = []
    for number in range(count):
        subject = FACTS[number % len(FACTS)]
        prompt = f"the {subject} is in"
        ids = tokenizer([prompt, f"a {subject} is"], return_tensors="pt", padding=True)
        logits = model(**ids).logits
        last = ids["attention_mask"].sum(1) - 1
        best = [logits[row, last[row]].argmax().item() for row in (0, 1)]
        worst = [logits[row, last[row]].argmin().item() for row in (0, 1)]
        true, new = (tokenizer.decode([ids[0]]) for ids in (best, worst))
        relation = Question(f"a {subject} is", tokenizer.decode([best[1]]), new)
        found.append(
            Record(
                str(number),
                subject,
                "the {} is in",
                new,
                true,
                paraphrases=(Question(f"now {prompt}", new, true),),
                relations=(relation,) if relation.right != new else (),
            )
        )
    return found


class Tunable(SmallEditor):
    """Makes the new object likelier as far as ``size`` says, and after the relation's prompt as
    far as that is like the edit's and as ``harm`` says."""

    weights = ("lm_head.weight",)

    def __init__(self, size=1.0, harm=1.0, error=None):
        super().__init__()
        self.values = {"size": size, "harm": harm}
        self.fails = error
        self.made = []

    def search_space(self):
        return {"size": Dimension(0.1, 10, log=True), "harm": Dimension(choices=[0.0, 0.3, 1.0])}

    def settings(self):
        return dict(self.values)

    def configured(self, settings):
        unknown = set(settings) - set(self.values)
        if unknown:
            raise ConfigError(f"no settings {unknown}")
        other = Tunable(error=self.fails)
        other.model, other.tokenizer, other.made = self.model, self.tokenizer, self.made
        other.values = {**self.values, **settings}
        return other

    def edit(self, records, sadr):
        (record,) = records
        self.made.append((record.key, dict(self.values), sadr))
        if self.fails is not None:
            raise self.fails
        with torch.enable_grad():
            for _ in range((sadr or {}).get("num_grad_steps", 5)):
                self.model(torch.tensor([[1, 2]]))
        edited, other = (
            self.model.model(**self.tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
            for text in (record.prompt, f"a {record.subject} is")
        )
        shared = (edited @ other) / (other @ other) * other
        weight = self.model.get_parameter(self.weights[0])
        new = self.tokenizer.vocab[record.target_new.strip()]
        weight[new] += self.values["size"] * (edited - (1 - self.values["harm"]) * shared)


def result(record, arm, **scores):
    kinds = {name.replace("_", " "): pairs for name, pairs in scores.items()}
    return Result(record, arm, kinds, None, None, None, steps=7)


def space(editor):
    return Space(editor.search_space(), keep=True, steps=4, fixed={"layers": [3]})


def searching(tmp_path, editor, first=(), count=5):
    """A search over records, with the unedited model in place of the plain edit."""
    evaluator, asked = TrialEvaluator(Tunable()), records(count)
    tasks = [TrialTask(UNEDITED, Setup(), record) for record in asked]
    unedited = [found for task in tasks for found in evaluator.items(task)]
    return Search(space(editor), asked, Baselines(unedited, unedited), tmp_path / "study", first)


def run_search(tmp_path, editor, trials):
    search = searching(tmp_path, editor)
    more = len(search.tried) + trials
    search.run(LocalEngine(TrialEvaluator(editor)), lambda: len(search.tried) < more)
    return search


RIGHT, WRONG = (0.0, -1.0), (-1.0, 0.0)


def answers(made=4, kept=4, distracted=4, reworded=4, near=4):
    """Results of one record, by how many of four answers of each kind are right."""

    def pairs(right):
        return [RIGHT] * right + [WRONG] * (4 - right)

    kinds = {"efficacy": pairs(made), "relation": pairs(kept), "paraphrase": pairs(reworded)}
    kinds |= {"neighbourhood": pairs(near), DISTRACTED + "neighbourhood": pairs(distracted)}
    return [Result("0", "x", kinds, 0, 0, 0)]


def outcome(reached=0.95, made=True, spared=True):
    pairs = {True: (0.0, -9.0), False: (-9.0, 0.0)}
    return [
        Result(
            "0",
            "x",
            {"efficacy": [pairs[made]], "neighbourhood": [pairs[spared]]},
            None,
            None,
            None,
            steps=6,
            reached=reached,
        )
    ]
