"""Files that people write."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.errors import ConfigError


def whole(value: Any) -> int:
    """A whole number, perhaps as a text.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise TypeError
    return int(value)


def number(value: Any) -> float:
    """A number, perhaps as a text.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table in a TOML file.

    Args:
        what: what the file is to the person who named it, for the error.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    return read_toml_table(path, what)[0]


def read_toml_table(path: Path, what: str) -> tuple[dict[str, Any], Place]:
    """As :func:`read_toml`; and where its keys stand."""
    text = ""
    try:
        text = path.read_bytes().decode()
        return tomllib.loads(text), Place(path, text)
    except OSError as exc:
        raise ConfigError(f"cannot read {what} {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:  # no TOML, no UTF-8, a number of 5,000 digits, nested too deep
        last = text.rstrip("\n").count("\n") + 1 if "at end of document" in str(exc) else 0
        raise ConfigError(f"{what} {path} is not TOML: {exc}{f', line {last}' if last else ''}") from exc


@dataclass(frozen=True, slots=True)
class Place:
    """A table of a TOML file, for errors: they name the file, the line, the table and the key.

    Attributes:
        table: the names of the tables from the outermost to this one; none is the file's own.
    """

    file: Path
    text: str
    table: tuple[str, ...] = ()

    def below(self, *names: str) -> Place:
        """A table in this one."""
        return Place(self.file, self.text, (*self.table, *names))

    def of(self, key: str) -> str:
        """Where a key stands: ``FILE:LINE``, and the table."""
        return self._told((*self.table, key))

    def __str__(self) -> str:
        """Where the table itself begins."""
        return self._told(self.table)

    def _told(self, path: Sequence[str]) -> str:
        table = f": [{'.'.join(self.table)}]" if self.table else ""
        return f"{self.file}:{line_of(self.text, path)}{table}"


def line_of(text: str, path: Sequence[str]) -> int:
    """The line of a TOML text at which a key begins; 1 is the first.

    Found with the parser itself, which does not tell: by the longest piece of the text, in whole lines from its
    beginning, that is TOML and does not have the key yet.

    Args:
        path: the tables that the key is in, and the key.
    """
    lines = text.split("\n")
    without, within = 0, len(lines)
    while within - without > 1:
        middle = (without + within) // 2
        pieces = ((end, _parsed(lines[:end])) for end in range(middle, within))
        end, table = next(((end, table) for end, table in pieces if table is not None), (within, None))
        if table is None or _has(table, path):
            within = middle
        else:
            without = end
    return without + 1


def _parsed(lines: Sequence[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines) + "\n")
    except (ValueError, RecursionError):
        return None


def _has(table: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(table, dict) or name not in table:
            return False
        table = table[name]
    return True
