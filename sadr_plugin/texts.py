"""Text that users name on the command line: files, and the manual that Python carries."""

from __future__ import annotations

from pathlib import Path

from .errors import ConfigError


def read_text(file: Path, option: str) -> str:
    """What a UTF-8 file holds.

    Raises `ConfigError`, naming the option and the file, for what cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{option}: there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {file} cannot be read as UTF-8 text: {error}") from None


def python_manual(option: str) -> list[str]:
    """The topics of Python's ``help()``: English text wherever Python runs.

    Raises `ConfigError`, naming the option, where the installation was stripped of it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(f"{option}: this Python has no manual; give a text file") from None
    return [topics[name] for name in sorted(topics)]
