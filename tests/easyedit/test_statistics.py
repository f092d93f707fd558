"""`sadr stats` on a small random model, with EasyEdit's own running statistics."""

import numpy as np
import pytest
import torch

from easyedit.conftest import MAIN_BRANCH
from easyedit.test_editors import EDIT_POINTS, exists, hparams_of
from sadr_easyedit import statistics
from sadr_easyedit.statistics import Job, compute, read_texts, sample_texts
from sadr_plugin.errors import ConfigError
from support import WORDS, tiny_llama, word_tokenizer


class NoProgress:
    def add_task(self, *_, **__):
        return 0

    def advance(self, *_, **__):
        pass

    update = advance


def job(tmp_path, editor="MEMIT", **changes):
    point = next(point for point in EDIT_POINTS if point.editor == editor)
    hparams = hparams_of(
        point, stats_dir=str(tmp_path / "stats"), layers=[1, 2], mom2_n_samples=500, **changes
    )
    model = tiny_llama()
    model.config._name_or_path = "tiny/llama"
    return Job(model, word_tokenizer(), hparams)


def texts(count=200):
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS[2:], size=12)) for _ in range(count)]


def files(tmp_path):
    return sorted(path for path in (tmp_path / "stats").rglob("*") if path.is_file())


def test_the_second_moment_where_easyedit_looks_for_it(tmp_path):
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
        assert int(data["mom2.count"]) == len(rows) == 200 * 12
    torch.testing.assert_close(moment, rows.T @ rows / len(rows), rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    from easyeditor.models.rome import layer_stats as module

    work, original = job(tmp_path), module.layer_stats

    def stopping(model, tokenizer, name, *args, **kwargs):
        if name.startswith("model.layers.2") and kwargs["progress"].__name__ == "ticking":
            raise KeyboardInterrupt
        return original(model, tokenizer, name, *args, **kwargs)

    monkeypatch.setattr(module, "layer_stats", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute(work, texts(), NoProgress())
    assert len(files(tmp_path)) == 1
    first = files(tmp_path)[0].stat().st_mtime_ns
    monkeypatch.setattr(module, "layer_stats", original)
    assert compute(work, texts(), NoProgress()) == ["model.layers.2.mlp.down_proj"]
    assert len(files(tmp_path)) == 2
    assert files(tmp_path)[0].stat().st_mtime_ns == first
    assert compute(work, [], NoProgress()) == []


def test_a_corpus_too_small_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="36 tokens are too few for a layer of width 64; at least 640"
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
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read"):
        read_texts([tmp_path / "none.txt"])


def test_texts_from_the_model_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "OPENINGS", ("the", "so"))
    work = job(tmp_path)
    before = torch.get_rng_state()
    drawn = sample_texts(work, 1000, NoProgress())
    assert work.tokens_in(drawn) >= 1000
    assert drawn == sample_texts(work, 1000, NoProgress()), "the seed decides"
    assert torch.equal(torch.get_rng_state(), before)
    assert work.tokenizer.padding_side == "right"
