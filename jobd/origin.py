"""Where a setting was said that cannot be used: found out when there is something to complain of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from api.errors import ConfigError
from api.toml import Place, read_toml_table
from jobd.config import ENV_PREFIX, FIELDS, FILE, Flags, key_of

SHORTEST: Final = 4
"""Characters of a value that is looked for in a sentence; shorter ones stand in many."""
TABLE: Final = re.compile(r"\[((?:roles|principals)\..+?)\]: ")
"""How a message begins that is about such a table."""
LIMITS: Final = re.compile(r"the limits of ([\w, ]+) in the configuration")


def with_origin(message: str, flags: Flags, environment: Mapping[str, str], file: Path | None) -> str:
    """The message, with the line of the file or the variable that it is about, if it is about one and does not say so.

    It is about the setting whose value stands in it (the longest, if there are several), else about those whose flags
    do, or the tables that it names. What was said as a flag needs no other name.
    """
    if file is not None and f"{file}:" in message:
        return message
    try:
        table, place = read_toml_table(file, FILE) if file else ({}, None)
    except ConfigError:
        return message
    valued, flagged = [], []
    for name, (value, where) in _said(flags, environment, table, place).items():
        if any(text in message for text in _texts(name, value)):
            valued.append((len(str(value)), where))
        elif re.search(rf"(?<![\w-])--(no-)?{key_of(name)}(?![\w-])", message):
            flagged.append(where)
    found = [max(valued)[1]] if valued else flagged or (list(_tables(message, table, place)) if place else [])
    return f"{message} ({', '.join(found)})" if found else message


def _said(
    flags: Flags, environment: Mapping[str, str], table: dict[str, Any], place: Place | None
) -> dict[str, tuple[object, str]]:
    """Each setting that counts and is no flag: its value, and where it is."""
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


def _texts(name: str, value: object) -> Iterator[str]:
    """How a value stands in messages: as it was said, a path without what it can do without, an address without
    brackets."""
    if isinstance(value, str) and len(value) >= SHORTEST:
        yield value
        if "Path" in str(FIELDS[name].type):
            yield str(Path(value))
        yield re.sub(r"[\[\]]", "", value)


def _tables(message: str, table: dict[str, Any], place: Place) -> Iterator[str]:
    if named := TABLE.match(message):
        kind, _, name = named[1].partition(".")
        if name in table.get(kind, {}):
            yield str(place.below(kind, name))
    elif limits := LIMITS.search(message):
        yield from _limits(limits[1].replace("_", "-").split(", "), table, place)


def _limits(keys: list[str], table: Any, place: Place) -> Iterator[str]:
    """Where limits of these names are set, in whichever table."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _limits(keys, value, place.below(name))
        elif name in keys and "limits" in place.table:
            yield f"{place.of(name)}: {name}"
