"""EasyEdit's main branch is not on PyPI: its tests run on a checkout, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_everything_on_easyedits_main_branch():
    home = os.environ.get("EASYEDIT_HOME")
    if not home:
        pytest.skip("EASYEDIT_HOME does not point at a checkout of EasyEdit's main branch")
    assert (Path(home) / "easyeditor").is_dir(), f"EASYEDIT_HOME={home} holds no EasyEdit"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-ra",
            "-q",
            "-s",
            str(Path(__file__).parent / "easyedit"),
        ],
        env={**os.environ, "SADR_TEST_MAIN_BRANCH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    print("\n".join(line for line in run.stdout.splitlines() if "relative difference" in line))
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
