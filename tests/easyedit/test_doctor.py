import pytest
from typer.testing import CliRunner

from easyedit.conftest import MAIN_BRANCH
from sadr_easyedit import smollm2
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_plugin.commands.cli import build


def sadr(*arguments):
    return CliRunner().invoke(build(), arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


def test_doctor_says_what_there_is():
    shown = sadr("doctor")
    assert shown.exit_code == 0
    assert "easyedit (from sadr-plugin" in shown.stdout
    assert "ROME (easyeditor.models.rome.compute_v:compute_v): can be attached" in shown.stdout
    there = shown.stdout.count("can be attached")
    # FastEdit's ROME, and of EasyEdit all on the main branch, ROME and MEMIT on PyPI.
    assert there == 1 + (len(EDIT_POINTS) if MAIN_BRANCH else 2)
    if not MAIN_BRANCH:
        assert "this version of easyeditor has no easyeditor.models.pmet" in shown.stdout


def test_editors_is_a_table_of_them():
    shown = sadr("editors").stdout
    for point in EDIT_POINTS:
        assert point.editor in shown


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"sadr": True}, 0, "SADR works with this"),
        ({}, 1, "does not switch SADR on"),
        ({"sadr": {"gama": 1}}, 1, "sadr.gama: unknown key"),
        (
            {"sadr": True, "alg_name": "FT"},
            1,
            "an attached editor; SADR works with AlphaEdit, CORE",
        ),
        (
            {"sadr": True, "mom2_adjustment": True, "stats_dir": "/no"},
            0,
            "! stats_dir: there is no",
        ),
        ({"sadr": True, "mom2_adjustment": False}, 0, "! mom2_adjustment: false: the edit looks"),
        ({"sadr": True, "device": 70}, 0, "! device: 70 is no GPU of this machine; cpu"),
        (
            {"sadr": True, "model_name": "/not/there"},
            1,
            "model_name: there is no folder /not/there (seen from",
        ),
        ({"sadr": True, "layers": [29]}, 1, "the edited layer 29 is the last one"),
        ({"sadr": True, "layer_module_tmp": "h.{}"}, 1, "names no list of layers"),
    ],
)
def test_doctor_on_an_hparams_file(rome_yaml, smol, changes, status, message):
    changes = {"model_name": str(smollm2.model_folder()), **changes}
    shown = sadr("doctor", rome_yaml(**changes))
    assert message in shown.stdout
    assert shown.exit_code == status


def test_doctor_lists_the_editor_of_the_file_alone(rome_yaml):
    listed = sadr("doctor", rome_yaml(sadr=True)).stdout
    assert "ROME (easyeditor.models.rome.compute_v:compute_v): can be attached" in listed
    assert "MEMIT" not in listed


def test_doctor_on_a_file_that_is_not_there(tmp_path):
    shown = sadr("doctor", str(tmp_path / "none.yaml"))
    assert (shown.exit_code, "there is no file" in shown.stdout) == (1, True)
