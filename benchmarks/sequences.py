"""Draws runs of `sadr eval --mode sequence` in one column: sequences.py OUT.svg FOLDER…"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sadr_plugin.evaluation import SHORT, read_checkpoints, read_results, summarise_sequence
from sadr_plugin.evaluation._summary import IN_TABLE
from sadr_plugin.pages import save, sequence, under_each_other


def main(target: str, *folders: str) -> None:
    rows = []
    for folder in map(Path, folders):
        editor = json.loads((folder / "run.json").read_text())["hparams"]["alg_name"]
        found = summarise_sequence(
            read_results(folder / "results.jsonl"), read_checkpoints(folder / "checkpoints.jsonl")
        )
        shown = [f"{SHORT[task]}, percent" for task in IN_TABLE]
        rows.append(sequence(found, editor, shown, columns=len(shown)))
    save(under_each_other(rows), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
