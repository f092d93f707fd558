"""Texts that users name on the command line: files, and the manual that comes with Python."""

from __future__ import annotations

from pathlib import Path

from .errors import ConfigError


def read_text(file: Path, option: str) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        ConfigError: the file cannot be read. The message names the option and the file.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{option}: there is no file {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {file} cannot be read as UTF-8 text: {error}") from None


def python_manual(option: str) -> list[str]:
    """Return the topics of Python's ``help()``, as English text that comes with Python itself.

    Raises:
        ConfigError: this Python was installed without the topics. The message names the option.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(f"{option}: this Python has no manual; give a text file") from None
    return [topics[name] for name in sorted(topics)]
