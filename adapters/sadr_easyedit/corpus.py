"""Text for layer statistics: files, Python's own manual, or what the model itself writes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin import texts as user_texts

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import nn

    from .statistics import Job

LONGEST_TEXT = 2000
"""Characters of a text at the most, some 500 tokens."""

OPENINGS = ("The", "A", "In", "It", "He", "She", "They", "When", "There", "Many", "On", "For")
"""How texts sampled from the model itself begin."""


def read_texts(files: Sequence[Path]) -> list[str]:
    """The paragraphs of UTF-8 text files; a line is one where there are no blank lines.

    Long ones are cut: attention's cost grows with the square of a text's length, and a second
    moment gains nothing by it.

    Raises `ConfigError`, naming the file, for what cannot be read.
    """
    texts: list[str] = []
    for file in files:
        texts += _paragraphs(user_texts.read_text(file, "--corpus"))
    return texts


def python_manual() -> list[str]:
    """The manual that Python carries for ``help()``: English text wherever Python runs.

    Raises `ConfigError` where the installation was stripped of it.
    """
    return [text for topic in user_texts.python_manual("--corpus") for text in _paragraphs(topic)]


def _paragraphs(content: str) -> list[str]:
    separator = "\n\n" if "\n\n" in content else "\n"
    return [
        text
        for part in content.split(separator)
        for text in textwrap.wrap(part, LONGEST_TEXT, replace_whitespace=False)
    ]


def texts_of(
    corpus: Sequence[str], job: Job, progress: Progress, tokens: int | None = None
) -> list[str]:
    """The texts that ``--corpus`` names.

    Args:
        corpus: ``["python"]``, ``["self"]``, or files.
        job: what they are for, which says how many are needed of the model's own.
        progress: shows how the model writes.
        tokens: how many the model is to write; None for twice what is needed.
    """
    if list(corpus) == ["python"]:
        return python_manual()
    if list(corpus) == ["self"]:
        count = tokens or 2 * job.tokens_needed()
        return sample_texts(job.model, job.tokenizer, count, progress)
    return read_texts([Path(file) for file in corpus])


def sample_texts(
    model: nn.Module, tokenizer: Any, tokens: int, progress: Progress, seed: int = 0
) -> list[str]:
    """Texts of some ``tokens`` tokens in all, drawn from the model itself."""
    import torch

    from sadr_plugin.evaluation import generators_kept

    length, rows = 128, 64
    task = progress.add_task("text sampled from the model", total=tokens)
    texts: list[str] = []
    drawn = 0
    # The tokenizer is the user's: its padding side goes back to what it was.
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    device = next(model.parameters()).device
    try:
        with generators_kept():
            torch.manual_seed(seed)
            while drawn < tokens:
                openings = [OPENINGS[(drawn + row) % len(OPENINGS)] for row in range(rows)]
                batch = tokenizer(openings, padding=True, return_tensors="pt").to(device)
                output = model.generate(  # type: ignore[operator]
                    **batch,
                    do_sample=True,
                    top_p=0.95,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    pad_token_id=tokenizer.pad_token_id,
                )
                texts += tokenizer.batch_decode(output, skip_special_tokens=True)
                drawn += output.numel()
                progress.update(task, completed=min(drawn, tokens))
    finally:
        tokenizer.padding_side = side
    return texts
