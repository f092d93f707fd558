"""The folder of a run: what it records of the code, and which runs may continue in it."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from sadr_plugin._version import code_sha256, code_version
from sadr_plugin.adapter import EditorOptions, HparamsSummary
from sadr_plugin.commands import _run_folder
from sadr_plugin.commands._run_folder import claim
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError
from sadr_plugin.testing import registered


@pytest.fixture
def kit(tmp_path):
    """An installed toolkit with its metadata."""
    site = tmp_path / "site"
    (site / "somekit" / "models").mkdir(parents=True)
    (site / "somekit" / "__init__.py").write_text("raise AssertionError('imported')")
    (site / "somekit" / "models" / "rome.py").write_text("STEPS = 20")
    (site / "somekit-1.0.dist-info").mkdir()
    (site / "somekit-1.0.dist-info" / "METADATA").write_text("Name: somekit\nVersion: 1.0\n")
    return site


def test_the_code_of_a_toolkit_is_told_without_importing_it(kit, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(kit))
    first = code_sha256("somekit")
    assert (code_version("somekit", "somekit"), len(first)) == ("1.0", 64)
    checkout = tmp_path / "checkout"
    shutil.copytree(kit / "somekit", checkout / "somekit")
    monkeypatch.syspath_prepend(str(checkout))
    assert code_version("somekit", "somekit") is None, "the distribution is not what would run"
    assert code_sha256("somekit") == first, "the folder does not count"
    (checkout / "somekit" / "models" / "rome.py").write_text("STEPS = 25")
    changed = code_sha256("somekit")
    assert changed != first
    (checkout / "somekit" / "models" / "rome.py").rename(checkout / "somekit" / "rome.py")
    assert code_sha256("somekit") not in (first, changed), "names of files count"
    assert "somekit" not in sys.modules


def test_code_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_in_memory", SimpleNamespace(__spec__=None))
    for package in ("no_such_package", "made_in_memory"):
        assert code_sha256(package) is None
        assert code_version("pytest", package) is None
    assert code_version("no-such-distribution", "pytest") is None


def test_a_toolkit_on_the_path_has_no_version(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(_run_folder, "TOOLKITS", {"somekit": "somekit"})
    monkeypatch.syspath_prepend(str(kit))
    assert _run_folder.packages()["somekit"] == "1.0"
    shutil.copytree(kit / "somekit", tmp_path / "checkout" / "somekit")
    monkeypatch.syspath_prepend(str(tmp_path / "checkout"))
    assert _run_folder.packages()["somekit"] is None


def test_a_run_records_the_toolkit_the_plugins_and_whether_remote_code_runs(kit, monkeypatch):
    from sadr_plugin.commands import _run_setup

    dist = SimpleNamespace(metadata={"Name": "my-heads"}, version="2.1")
    loaded = {"heads": SimpleNamespace(dist=dist), "loose": SimpleNamespace(dist=None)}
    monkeypatch.setattr(_run_setup, "loaded_adapters", lambda: loaded)
    monkeypatch.syspath_prepend(str(kit))
    chosen = SimpleNamespace(file=Path(__file__), records=[])

    def about(hparams, options):
        summary = HparamsSummary("Some", "tiny", 1, "layers.{}", None, hparams)
        return _run_setup.about_run("single", summary, chosen, options, _run_setup.Place())

    found = about("somekit.models.rome:HyperParams", EditorOptions(0, None, True))
    assert found["toolkit_sha256"] == code_sha256("somekit")
    assert found["plugins"] == {"heads": "my-heads 2.1", "loose": None}
    assert found["trust_remote_code"] is True
    other = about(None, EditorOptions())
    assert (other["toolkit_sha256"], other["trust_remote_code"]) == (None, False)


@pytest.mark.parametrize("name", ["checkpoints.jsonl", "study.journal", "judged-3.jsonl"])
@pytest.mark.parametrize("resume", [False, True])
def test_files_of_a_run_whose_results_are_gone_are_not_continued(tmp_path, name, resume):
    claim(tmp_path, {"seed": 0}, resume=False)
    (tmp_path / name).touch()
    claim(tmp_path, {"seed": 0}, resume)  # nothing is in it
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(ConfigError, match=f"holds {name} of a run whose results.jsonl is gone"):
        claim(tmp_path, {"seed": 1}, resume)
    (tmp_path / "results.jsonl").write_text("{}\n")
    claim(tmp_path, {"seed": 0}, resume=True)


@pytest.mark.parametrize(
    ("command", "first", "then", "differing"),
    [
        ("eval", [], ["--fluency"], "fluency"),
        ("drift", [], ["--edited", "other"], "arms, edited"),
        ("drift", [], ["--top", "3"], "variants"),
        ("drift", ["--window", "2-3"], ["--window", "3"], "variants"),
        ("tune", ["--budget", "1s"], ["--budget", "1s", "--no-keep"], "keep"),
    ],
)
def test_no_run_goes_on_with_another_option(tmp_path, command, first, then, differing):
    from evaluation_support import Stranger, sadr_eval

    def run(*options):
        if command == "tune":
            from test_tuning import sadr_tune

            return sadr_tune(tmp_path, *options)
        with registered(Stranger()):
            if command == "eval":
                return sadr_eval(tmp_path, *options)
            file, data = tmp_path / "hparams.small", tmp_path / "data.json"
            file.touch()
            fact = {"prompt": "the tower is in", "subject": "tower", "target_new": "rome"}
            data.write_text(json.dumps([{**fact, "ground_truth": "paris"}]))
            given = ["drift", file, "--data", data, "--out", tmp_path / "out", *options]
            return CliRunner().invoke(build(), list(map(str, given)), catch_exceptions=False)

    assert run(*first).exit_code == 0
    with pytest.raises(ConfigError, match=f"a run with other settings: {differing}; see"):
        run(*then, "--resume")


@pytest.mark.parametrize("content", ["{", "[1]", "null", "3", '"text"', "[" * 100_000])
def test_a_damaged_run_json_is_named(tmp_path, content):
    claim(tmp_path, {"seed": 1}, resume=False)
    (tmp_path / "results.jsonl").write_text("{}\n")
    file = tmp_path / "run.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    claim(tmp_path, {"seed": 1}, resume=True)
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"--resume: .*run\.json cannot be read: "):
        claim(tmp_path, {"seed": 1}, resume=True)
