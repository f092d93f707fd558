"""What a toolkit prints is kept off the terminal; what warns comes through."""

import subprocess
import sys


def test_warnings_come_through():
    """Outside pytest, which records warnings in a way of its own."""
    script = """
import logging, sys, warnings
from sadr_plugin.commands.terminal import silence
with silence():
    print("printed"); print("a bar", file=sys.stderr)
    warnings.warn("the plugin's own")
    logging.getLogger("toolkit").warning("logged")
warnings.warn("afterwards")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert "the plugin's own" in done.stderr
    assert "logged" in done.stderr
    assert "afterwards" in done.stderr
    assert "a bar" not in done.stderr
