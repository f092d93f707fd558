"""Find the place of a subject in a prompt."""

from __future__ import annotations

import unicodedata


def find_subject(subject: str, prompt: str) -> int:
    """Return the character at which the subject first occurs in the prompt as separate words.

    Raises:
        ValueError: there is no such place.
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
    """Whether ``place``, between two characters, is inside a word.

    Only letters with case and digits count, because scripts without case may have no spaces between
    words.
    """
    if not 0 < place < len(text):
        return False
    before, after = (unicodedata.category(c) for c in text[place - 1 : place + 1])
    if after in ("Mn", "Mc", "Me"):
        return True  # an accent or a vowel sign belongs to the letter before it
    return {before, after} <= {"Lu", "Ll", "Lt", "Nd"}
