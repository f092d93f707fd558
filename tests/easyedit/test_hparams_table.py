"""The table in docs/use-in-easyedit.md against the hparams files that EasyEdit ships."""

import os
import re
from pathlib import Path

import pytest
import yaml

from easyedit.conftest import MAIN_BRANCH
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_easyedit.hparams_files import load_hparams
from sadr_plugin import enabled

PAGE = Path(__file__).parents[2] / "docs" / "use-in-easyedit.md"
ROW = re.compile(
    r"^\| `([\w.-]+/[\w.-]+\.yaml)` \| ([\d–]+) \| `(sadr: [^`]+)` \| (.*?) ?\|$", re.MULTILINE
)

pytestmark = pytest.mark.skipif(not MAIN_BRANCH, reason="EasyEdit's PyPI release ships no hparams")


def rows():
    return ROW.findall(PAGE.read_text(encoding="utf-8"))


def test_every_shipped_file_has_its_row():
    folder = Path(os.environ["EASYEDIT_HOME"]) / "hparams"
    editors = {point.editor for point in EDIT_POINTS}
    shipped = {f"{f.parent.name}/{f.name}" for e in editors for f in (folder / e).glob("*.yaml")}
    assert {name for name, *_ in rows()} == shipped


@pytest.mark.parametrize(("name", "layers", "line", "remark"), rows(), ids=lambda cell: cell[:30])
def test_a_row_fits_its_file(name, layers, line, remark, tmp_path):
    shipped = Path(os.environ["EASYEDIT_HOME"]) / "hparams" / name
    text = shipped.read_text(encoding="utf-8")
    first, _, last = layers.partition("–")
    assert yaml.safe_load(text)["layers"] == list(range(int(first), int(last or first) + 1))
    file = tmp_path / shipped.name
    file.write_text(f"{text}\n{line}\n", encoding="utf-8")
    with enabled():
        hparams = load_hparams(file)
    assert hparams.sadr == yaml.safe_load(line)["sadr"]
    assert hparams.alg_name == shipped.parent.name or "alg_name" in remark
