"""Text for layer statistics: files, Python's own manual, or text that the model itself writes."""

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
"""The maximum length of a text in characters. This is about 500 tokens."""

OPENINGS = ("The", "A", "In", "It", "He", "She", "They", "When", "There", "Many", "On", "For")
"""The first words of texts that are sampled from the model itself."""


def read_texts(files: Sequence[Path]) -> list[str]:
    """Return the paragraphs of UTF-8 text files.

    If a file has no blank lines, each of its lines is a paragraph. Long paragraphs are cut,
    because the cost of attention grows with the square of a text's length. Longer texts do not
    improve a second moment.

    Raises:
        ConfigError: a file cannot be read. The message names the file.
    """
    texts: list[str] = []
    for file in files:
        texts += _paragraphs(user_texts.read_text(file, "--corpus"))
    return texts


def python_manual() -> list[str]:
    """Return the paragraphs of the manual that Python contains for ``help()``.

    It is English text that is available wherever Python runs.

    Raises:
        ConfigError: the manual was removed from the Python installation.
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
    """Return the texts that ``--corpus`` names.

    Args:
        corpus: ``["python"]``, ``["self"]``, or files.
        job: the job that the texts are for. It says how many tokens are needed.
        progress: the progress display for text that the model writes.
        tokens: how many tokens the model writes. None means twice the number that is needed.
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
    """Sample texts from the model itself, with about ``tokens`` tokens in total."""
    import torch

    from sadr_plugin.attention._inputs import input_device, padded, padding_token
    from sadr_plugin.evaluation import generators_kept

    length, rows = 128, 64
    task = progress.add_task("text sampled from the model", total=tokens)
    texts: list[str] = []
    drawn = 0
    device = input_device(model)
    padding = padding_token(model, tokenizer)
    with generators_kept():
        torch.manual_seed(seed)
        while drawn < tokens:
            openings = [OPENINGS[(drawn + row) % len(OPENINGS)] for row in range(rows)]
            known = [tokenizer(opening)["input_ids"] for opening in openings]
            ids, mask, _ = padded(known, "left", padding)
            output = model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                do_sample=True,
                top_p=0.95,
                max_new_tokens=length,
                min_new_tokens=length,
                pad_token_id=padding,
            )
            texts += tokenizer.batch_decode(output, skip_special_tokens=True)
            drawn += output.numel()
            progress.update(task, completed=min(drawn, tokens))
    return texts
