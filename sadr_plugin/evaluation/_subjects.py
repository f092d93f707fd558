"""Where a subject stands in a prompt."""

from __future__ import annotations

import unicodedata


def find_subject(subject: str, prompt: str) -> int:
    """Where the subject first stands in the prompt as words of its own.

    Raises `ValueError` where it does not.
    """
    if not subject.strip() or subject not in prompt:
        raise ValueError(f"subject: {subject!r} is not in the prompt {prompt!r}")
    for start in range(len(prompt)):
        end = start + len(subject)
        if prompt.startswith(subject, start) and not (
            _in_word(prompt, start) or _in_word(prompt, end)
        ):
            return start
    raise ValueError(
        f"subject: {subject!r} is in the prompt {prompt!r} only as part of another word"
    )


def _in_word(text: str, place: int) -> bool:
    """Whether a word goes on across ``place``, between two characters.

    Only letters with case and digits tell: scripts without case may put no spaces between words.
    """
    if not 0 < place < len(text):
        return False
    before, after = (unicodedata.category(c) for c in text[place - 1 : place + 1])
    if after in ("Mn", "Mc", "Me"):
        return True  # an accent or a vowel sign belongs to the letter before it
    return {before, after} <= {"Lu", "Ll", "Lt", "Nd"}
