"""`sadr stats` on a small random model, with EasyEdit's own running statistics."""

import io
import json
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from easyedit.conftest import MAIN_BRANCH, ROME
from easyedit.test_editors import EDIT_POINTS, exists, hparams_of
from sadr_easyedit import corpus, statistics
from sadr_easyedit.corpus import python_manual, read_texts, sample_texts
from sadr_easyedit.statistics import Job, compute
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError
from support import WORDS, tiny_llama, word_tokenizer


class NoProgress:
    def add_task(self, *_, **__):
        return 0

    def advance(self, *_, **__):
        pass

    update = advance


class StoppingAtTwo(NoProgress):
    """Ctrl-C after the second group."""

    def update(self, task, completed):
        if completed == 2:
            raise KeyboardInterrupt


def job(tmp_path, editor="MEMIT", **changes):
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    hparams = hparams_of(
        point, stats_dir=str(tmp_path / "stats"), layers=[1, 2], mom2_n_samples=500, **changes
    )
    model = tiny_llama()
    model.config._name_or_path = "tiny/llama"
    return Job(model, word_tokenizer(), hparams)


def name_of_unfinished(job, corpus=("a",)):
    return statistics._Unfinished(job, corpus)._file.name


def test_the_sums_of_another_job_are_not_continued(tmp_path):
    def elsewhere(job):
        job.model.config._name_or_path = "other/llama"

    def in_half(job):
        job.model.to(torch.bfloat16)

    def of_shorter_texts(job):
        job.tokenizer.model_max_length = 7

    jobs = [job(tmp_path), job(tmp_path, mom2_dataset="other"), job(tmp_path, mom2_dtype="float64")]
    for change in (elsewhere, in_half, of_shorter_texts):
        jobs.append(job(tmp_path))
        change(jobs[-1])
    names = [name_of_unfinished(one) for one in jobs]
    names += [name_of_unfinished(job(tmp_path), ("b",))]
    assert len(set(names)) == len(names)
    assert name_of_unfinished(job(tmp_path)) == names[0]


def texts(count=200):
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 20, size=count)
    return [" ".join(generator.choice(WORDS[2:], size=length)) for length in lengths]


def files(tmp_path):
    return sorted(path for path in (tmp_path / "stats").rglob("*") if path.is_file())


def test_the_second_moment_where_easyedit_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "TOKENS_PER_FORWARD", 64)
    work, corpus = job(tmp_path), texts()
    computed = compute(work, corpus, NoProgress())
    assert computed == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
    assert all("wikipedia_stats" in str(path) for path in files(tmp_path))
    inputs = []
    hook = work.model.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: inputs.append(args[0][0])
    )
    for text in corpus:
        work.model(**work.tokenizer(text, return_tensors="pt"))
    hook.remove()
    rows = torch.cat(inputs)
    with np.load(files(tmp_path)[0]) as data:
        moment = torch.tensor(data["mom2.mom2"]) / int(data["mom2.count"])
        assert int(data["mom2.count"]) == len(rows)
    torch.testing.assert_close(moment, rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = job(tmp_path / "whole")
    compute(whole, texts(350), NoProgress())
    monkeypatch.setattr(statistics, "SECONDS_BETWEEN_SAVES", 0)
    groups = []

    class Stopping(NoProgress):
        def update(self, task, completed):
            groups.append(completed)
            if len(groups) == 3:
                raise KeyboardInterrupt

    work = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compute(work, texts(350), Stopping())
    assert [path.name[:12] for path in files(tmp_path)] == [".unfinished-"], "nothing half-made"
    assert groups == [1, 2, 3]
    assert len(compute(work, texts(350), Stopping())) == 2
    assert groups[3] > 1, "what had been kept was not added again"
    assert compute(work, [], NoProgress()) == []
    for name in ("1", "2"):
        found, expected = (
            np.load(next(root.rglob(f"model.layers.{name}.*.npz")))["mom2.mom2"]
            for root in (tmp_path / "stats", tmp_path / "whole")
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(files(tmp_path)) == 2


def test_other_texts_start_over(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "SECONDS_BETWEEN_SAVES", 0)

    work = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compute(work, texts(350), StoppingAtTwo())
    compute(work, texts(300), NoProgress())
    with np.load(next((tmp_path / "stats").rglob("model.layers.1.*.npz"))) as data:
        assert int(data["mom2.count"]) == sum(len(text.split()) for text in texts(300))


def test_a_module_more_leaves_the_others_alone(tmp_path):
    work = job(tmp_path)
    compute(work, texts(), NoProgress())
    before = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    work.hparams.layers = [0, 1, 2]
    assert compute(work, texts(), NoProgress()) == ["model.layers.0.mlp.down_proj"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(files(tmp_path)) == 3


def test_layers_in_any_order(tmp_path):
    one, other = job(tmp_path / "one"), job(tmp_path / "other")
    other.hparams.layers = [2, 1]
    compute(one, texts(), NoProgress())
    compute(other, texts(), NoProgress())
    for layer in (1, 2):
        found, expected = (
            np.load(next((tmp_path / name).rglob(f"model.layers.{layer}.*.npz")))["mom2.mom2"]
            for name in ("other", "one")
        )
        np.testing.assert_array_equal(found, expected)


def test_a_kept_file_that_was_cut_off_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "SECONDS_BETWEEN_SAVES", 0)

    work = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compute(work, texts(350), StoppingAtTwo())
    (kept,) = files(tmp_path)
    kept.write_bytes(kept.read_bytes()[:1000])
    assert len(compute(work, texts(350), NoProgress())) == 2
    assert not kept.exists()


def array_alone():
    file = io.BytesIO()
    np.save(file, np.eye(64))
    return file.getvalue()


DAMAGES = {
    "empty": (lambda good: b"", "cannot be read"),
    "cut off": (lambda good: good[:3000], "cannot be read"),
    "a web page": (lambda good: b"<html>not found</html>", "cannot be read"),
    "a pickle": (lambda good: pickle.dumps([1]), "cannot be read"),
    "an array alone": (lambda good: array_alone(), "cannot be read"),
    "changed inside": (lambda good: good[:400] + b"changed!" + good[408:], "cannot be read"),
    "of another width": ({"mom2.mom2": np.eye(96)}, "of width 96, and the module takes 64"),
    "not square": ({"mom2.mom2": np.ones((64, 3))}, "holds no layer statistics"),
    "of no token": ({"mom2.count": 0}, "holds no layer statistics"),
    "without a count": ({"mom2.count": None}, "cannot be read"),
    "not finite": ({"mom2.mom2": np.full((64, 64), np.inf)}, "NaN or infinite"),
    "NaN": ({"mom2.mom2": np.full((64, 64), np.nan)}, "NaN or infinite"),
    "zeros": ({"mom2.mom2": np.zeros((64, 64))}, "only zeros"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damaged_statistics_are_named_and_computed_anew(tmp_path, damage):
    work = job(tmp_path)
    compute(work, texts(), NoProgress())
    first, second = statistics.files(work).values()
    good, (change, told) = first.read_bytes(), DAMAGES[damage]
    expected = np.load(first)["mom2.mom2"]
    if callable(change):
        first.write_bytes(change(good))
    else:
        kept = {**np.load(first, allow_pickle=False), **change}
        np.savez(first, **{name: value for name, value in kept.items() if value is not None})
    (fault,) = statistics.faults(work.hparams, work.model)
    assert told in fault
    assert str(first) in fault
    assert "sadr stats" in fault
    assert any(told in remark for remark in statistics.remarks(work))
    untouched = second.read_bytes()
    assert compute(work, texts(), NoProgress()) == [work.module_names()[0]]
    np.testing.assert_array_equal(np.load(first)["mom2.mom2"], expected)
    assert second.read_bytes() == untouched
    assert statistics.faults(work.hparams, work.model) == []


def test_missing_statistics_are_a_fault_of_an_edit(tmp_path):
    work = job(tmp_path)
    found = statistics.faults(work.hparams, work.model.to("meta"))
    assert len(found) == 2
    assert "model.layers.1.mlp.down_proj has no layer statistics" in found[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_in_half_precision(tmp_path, dtype):
    """They would be infinite, or lack most of their digits. The file keeps the toolkit's name."""
    work, exact = job(tmp_path / "half", mom2_dtype=dtype), job(tmp_path / "full")
    for each in (work, exact):
        with torch.no_grad():
            each.model.model.layers[1].mlp.up_proj.weight.mul_(300)
        compute(each, texts(), NoProgress())
    for half, full in zip(*(statistics.files(j).values() for j in (work, exact)), strict=True):
        assert dtype in half.name
        np.testing.assert_array_equal(np.load(half)["mom2.mom2"], np.load(full)["mom2.mom2"])
    assert np.load(full)["mom2.mom2"].max() > 0


def test_statistics_that_are_not_finite_are_not_written(tmp_path):
    work = job(tmp_path)
    with torch.no_grad():
        work.model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"not finite, because the model .*--dtype float32"):
        compute(work, texts(), NoProgress())
    assert not any(file.exists() for file in statistics.files(work).values())


def test_a_model_whose_weights_are_elsewhere(tmp_path):
    """As accelerate leaves it: weights on the device meta, and their device in a hook."""
    accelerate = pytest.importorskip("accelerate")
    alone, work = job(tmp_path / "here"), job(tmp_path / "there")
    compute(alone, texts(), NoProgress())
    accelerate.cpu_offload(work.model)
    assert next(work.model.parameters()).device.type == "meta"
    compute(work, texts(), NoProgress())
    for here, there in zip(*(statistics.files(j).values() for j in (alone, work)), strict=True):
        np.testing.assert_array_equal(np.load(here)["mom2.mom2"], np.load(there)["mom2.mom2"])


@pytest.mark.parametrize("change", [{"mom2_dataset": "none"}, {"mom2_dtype": "float33"}])
def test_settings_easyedit_has_no_statistics_for(tmp_path, change):
    with pytest.raises(ConfigError, match="mom2_dataset, mom2_dtype"):
        compute(job(tmp_path, **change), texts(), NoProgress())


def test_a_corpus_too_small_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^corpus: 0 tokens are too few"):
        compute(job(tmp_path), [], NoProgress())
    with pytest.raises(
        ConfigError, match="43 tokens are too few for a layer of width 64; at least 640"
    ):
        compute(job(tmp_path), texts(3), NoProgress())
    assert files(tmp_path) == []


def test_pmet_needs_attention_too(tmp_path):
    point = next(point for point in EDIT_POINTS if point.editor == "PMET")
    if not exists(point.function):
        assert not MAIN_BRANCH
        pytest.skip("EasyEdit's PyPI release has no PMET")
    names = job(tmp_path, "PMET").module_names()
    assert "model.layers.1.self_attn.o_proj" in names
    assert len(names) == 4


def test_text_files(tmp_path):
    (tmp_path / "lines.txt").write_text("one\ntwo\n\n", encoding="utf-8")
    (tmp_path / "paragraphs.txt").write_text("one\nline\n\ntwo\n\nthree\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    assert read_texts([tmp_path / "paragraphs.txt"]) == ["one\nline", "two", "three"]
    (tmp_path / "long.txt").write_text("word " * 1000 + "\n\nend", encoding="utf-8")
    assert [len(text) for text in read_texts([tmp_path / "long.txt"])] == [1999, 1999, 999, 3]
    with pytest.raises(ConfigError, match="binary cannot be read as UTF-8"):
        read_texts([tmp_path / "binary"])
    with pytest.raises(ConfigError, match=r"there is no file .*none\.txt"):
        read_texts([tmp_path / "none.txt"])


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("ran").touch()


class StrangerConfig(LlamaConfig):
    model_type = "stranger"


class Stranger(LlamaForCausalLM):
    config_class = StrangerConfig
"""


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A folder with a model whose class is in the folder, and its hparams file.

    The code leaves the file ``ran`` beside the copy of it that transformers makes.
    """
    folder, modules = tmp_path / "stranger", tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked on the terminal"))
    tiny_llama().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "stranger",
        "auto_map": {
            "AutoConfig": "stranger.StrangerConfig",
            "AutoModelForCausalLM": "stranger.Stranger",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "stranger.py").write_text(CODE)
    file = tmp_path / "rome.yaml"
    changes = {"model_name": str(folder), "stats_dir": str(tmp_path / "stats"), "layers": [1]}
    changes |= {"sadr": True, "mom2_n_samples": 500}
    file.write_text(yaml.safe_dump({**ROME, **changes}))
    (tmp_path / "texts.txt").write_text("\n\n".join(texts()))
    monkeypatch.chdir(tmp_path)
    yield lambda: [*modules.rglob("ran")]
    monkeypatch.undo()
    for name in [name for name in sys.modules if "stranger" in name]:
        del sys.modules[name]


def test_code_that_comes_with_a_model_runs_only_if_allowed(with_code):
    invoke = partial(CliRunner().invoke, build())
    stats = ["stats", "rome.yaml", "--corpus", "texts.txt"]
    with pytest.raises(ConfigError, match=r"(?s)stranger' cannot be loaded: .*trust_remote_code"):
        invoke(stats, catch_exceptions=False)
    shown = invoke(["doctor", "rome.yaml"], catch_exceptions=False)
    assert "cannot be loaded" in shown.stdout
    assert not with_code(), "it ran without having been allowed to"
    shown = invoke([*stats, "--trust-remote-code"], catch_exceptions=False)
    assert "model.layers.1.mlp.down_proj: computed" in shown.stdout
    assert with_code()


def test_tokens_are_for_sampled_text_alone():
    options = ["stats", "rome.yaml", "--corpus", "python", "--tokens", "9"]
    with pytest.raises(ConfigError, match="--tokens: for --corpus self only"):
        CliRunner().invoke(build(), options, catch_exceptions=False)


def test_pythons_own_manual():
    texts = python_manual()
    assert sum(map(len, texts)) > 300_000
    assert max(map(len, texts)) <= corpus.LONGEST_TEXT


def test_texts_from_the_model_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "OPENINGS", ("the", "so"))
    work = job(tmp_path)
    before = torch.get_rng_state()
    drawn = sample_texts(work.model, work.tokenizer, 1000, NoProgress())
    assert work.tokens_in(drawn) >= 1000
    assert drawn == sample_texts(work.model, work.tokenizer, 1000, NoProgress()), "the seed decides"
    assert torch.equal(torch.get_rng_state(), before)
    assert work.tokenizer.padding_side == "right"
