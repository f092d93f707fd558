"""Texts that users name on the command line: files, and the manual that comes with Python."""

from __future__ import annotations

from pathlib import Path

from .errors import ConfigError


def read_text(file: Path, option: str) -> str:
    """Return the content of a UTF-8 file.

    A byte order mark at the start does not belong to it.

    Raises:
        ConfigError: the file cannot be read, or holds no text. The message names the option and the
            file.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{option}: there is no file {file}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{option}: {file} cannot be read as UTF-8 text: {error}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{option}: {file} cannot be read: {error}") from None
    if not content.strip():
        raise ConfigError(f"{option}: {file} is empty")
    return content


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
