"""The notebook of the docs, run as it stands. What it installs is what the pages say."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("altair")

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "first-edit.ipynb"


def commands(page, start):
    """The lines of the first shell block after ``start`` that install something."""
    text = (DOCS / page).read_text().partition(start)[2]
    block = re.search(r"```bash\n(.+?)```", text, re.DOTALL)[1]
    return [line for line in block.splitlines() if line.startswith("pip install")]


def test_its_first_cell_installs_what_the_pages_say():
    """The checkout is the folder above the notebook, and the page's current folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code").source
    in_cell = [
        line.replace("%pip install -q", "pip install").replace('"..[report]"', '".[report]"')
        for line in first.splitlines()
    ]
    toolkit = commands("use-in-easyedit.md", "### Beside EasyEdit's PyPI release")
    model = commands("index.md", "## The demo")
    assert toolkit[-1] == "pip install ."
    assert in_cell[:3] == [*toolkit[:-1], 'pip install ".[report]"']
    assert sorted(in_cell) == sorted({*toolkit[:-1], *model})


def test_the_notebook_runs_to_its_picture(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 10
    assert all(not cell.outputs for cell in code), "it is kept without outputs"
    # What the first cell installs is there, and in the versions that the tests want.
    assert code[0].source.startswith("%pip install")
    notebook.cells.remove(code.pop(0))
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = {
        place: "".join(o.text for o in cell.outputs if o.output_type == "stream")
        for place, cell in enumerate(code)
    }
    assert printed[5].count("DNS") == 2, "the answers"
    assert printed[6].count("to the subject, then") == 5, "the heads"
    (picture,) = code[7].outputs
    assert "layer 10, head 0" in picture.data["image/svg+xml"]
    page = (tmp_path / "first-edit.html").read_text()
    assert "probability of the target" in page
    assert 'aria-label="layer 10, head 0' in page
