"""Where a setting was said that cannot be used: found out when there is something to complain of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from api.toml import read_toml_table
from jobd.config import ENV_PREFIX, FIELDS, FILE, Flags, key_of

SHORTEST: Final = 4
"""Characters of a value that is looked for in a sentence; shorter ones stand in many."""


def with_origin(message: str, flags: Flags, environment: Mapping[str, str], file: Path | None) -> str:
    """The message, with the line of the file or the variable that it is about, if it is about one and does not say so.

    It is about the setting whose value stands in it (the longest, if there are several), else whose flag does. What was
    said as a flag needs no other name.
    """
    if file is not None and f"{file}:" in message:
        return message
    found: list[tuple[int, str]] = []
    for name, (value, where) in _said(flags, environment, file).items():
        if isinstance(value, str) and len(value) >= SHORTEST and value in message:
            found.append((len(value), where))
        elif re.search(rf"(?<![\w-])--{key_of(name)}(?![\w-])", message):
            found.append((0, where))
    return f"{message} ({max(found)[1]})" if found else message


def _said(flags: Flags, environment: Mapping[str, str], file: Path | None) -> dict[str, tuple[object, str]]:
    """Each setting that counts and is no flag: its value, and where it is."""
    try:
        table, place = read_toml_table(file, FILE) if file else ({}, None)
    except ConfigError:
        return {}
    found: dict[str, tuple[object, str]] = {}
    for name in FIELDS:
        variable, key = ENV_PREFIX + name.upper(), key_of(name)
        if flags.get(name) is not None:
            continue
        if environment.get(variable):
            found[name] = environment[variable], variable
        elif place and key in table:
            found[name] = table[key], f"{place.of(key)}: {key}"
    return found
