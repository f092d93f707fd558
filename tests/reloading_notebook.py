"""A notebook with autoreload, in which a toolkit's files are saved. `test_reloading` runs it.

It prints the first loss of each edit, and whether the edit had SADR, by what was saved before.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from IPython.core.interactiveshell import InteractiveShell

import sadr_plugin
from test_reloading import LOUDER, POINT, SavedAdapter, edit

CHANGES = {
    "nothing": [],
    "the loop": [("editor", *LOUDER)],
    "the loop once more": [("editor", "decay + 10", "decay + 20")],
    "another function": [("editor", "def no_backward", "import os\n\n\ndef no_backward")],
    "the main module": [("main", "def apply", "SEEN = []\n\n\ndef apply")],
    "a default": [("hparams", "lr: float = 2.0", "lr: float = 3.0")],
    "a field": [("hparams", "start: float", "more: int = 1\n    start: float")],
    "a method": [("hparams", "with open(path) as", "with open(str(path)) as")],
    "all": [
        ("editor", "decay + 20", "decay + 10"),
        ("hparams", "steps: int = 1", "steps: int = 2"),
        ("main", "SEEN = []", "SEEN = None"),
    ],
}
CELLS = """
import savedkit.editor as editor, savedkit.main as main
from savedkit.editor import optimise
from savedkit.hparams import SmallHparams
before = [SmallHparams(**flag) for flag in flags]
"""
EDITS = """
new = [SmallHparams(**flag) for flag in flags]
copies = [dataclasses.replace(hparams, layer=2) for hparams in (*before, *new)]
edits = [
    edit(function, hparams)
    for function in (main.apply, optimise)
    for hparams in (*before, *new, *copies)
]
"""


def main(folder, mode, with_sadr):
    torch.set_num_threads(1)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "autoreload")
    shell.run_line_magic("autoreload", mode)

    def cell(code):
        with contextlib.redirect_stdout(sys.stderr):
            shell.run_cell(code).raise_error()

    flags = [{}, {"sadr": True}] if with_sadr else [{}]
    shell.push({"edit": edit, "flags": flags})
    cell("import dataclasses")
    if with_sadr:
        sadr_plugin.plugin_manager().register(SavedAdapter())
        sadr_plugin.enable()
    cell(CELLS)
    found = {}
    for saved, (name, changes) in enumerate(CHANGES.items()):
        for module, old, new in changes:
            file = folder / "savedkit" / f"{module}.py"
            text = file.read_text()
            assert old in text, old
            file.write_text(text.replace(old, new))
            os.utime(file, (10 * saved + file.stat().st_mtime,) * 2)  # whatever the clock ticks
        cell(EDITS)
        found[name] = shell.user_ns["edits"]
        assert (POINT in sadr_plugin.attached()) == with_sadr
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "sadr")
