"""The notebook of the docs, run as it stands."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("altair")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first-edit.ipynb"


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
