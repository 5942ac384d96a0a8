"""Secrets of jobs: read from a file or a descriptor, so that none stands in a command line or a shell's history."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from api.errors import ConfigError

MAX_SECRET: Final = 128 * 1024
"""Bytes; the kernel takes no longer variable."""


def read(name: str, source: str, *, beside: Path = Path()) -> str:
    """A secret, without the newline that may end it.

    Args:
        name: the variable that it is for.
        source: ``@FILE``, or ``fd:N``.
        beside: the directory that a relative file is looked for in.

    Raises:
        ConfigError: it cannot be read, or be a variable. What was read, or given in its place, is not in the message.
    """
    try:
        with os.fdopen(_open(name, source, beside), "rb") as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as exc:
        raise ConfigError(f"the secret {name!a} cannot be read from {source!a}: {exc.strerror}") from exc
    if len(data) > MAX_SECRET:
        raise ConfigError(f"the secret {name!a} has more than {MAX_SECRET} bytes, which no variable can have")
    try:
        return data.removesuffix(b"\n").decode()
    except UnicodeDecodeError:
        # Not as the cause: its text has the bytes.
        raise ConfigError(f"the secret {name!a} is not UTF-8, which is what the protocol carries") from None


def _open(name: str, source: str, beside: Path) -> int:
    number = source.removeprefix("fd:")
    if source.startswith("@") and source != "@":
        return os.open(beside / Path(source[1:]).expanduser(), os.O_RDONLY | os.O_CLOEXEC)
    if source.startswith("fd:") and number.isascii() and number.isdigit() and len(number) < 8:
        return os.dup(int(number))
    raise ConfigError(f"the secret {name!a} is given by a file or a descriptor: {name}=@FILE or {name}=fd:N")
