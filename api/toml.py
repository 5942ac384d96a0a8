"""Files that people write."""

from __future__ import annotations

import tomllib
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
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigError(f"cannot read {what} {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:  # no TOML, no UTF-8, a number of 5,000 digits, nested too deep
        raise ConfigError(f"{what} {path} is not TOML: {exc}") from exc
