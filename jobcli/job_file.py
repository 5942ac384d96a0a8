"""Several jobs in one TOML file, one table a job:

    [build]
    argv = ["make", "-j2"]
    cwd = "/srv/project"
    env = { CC = "clang" }

The table's name is the job's name, unless it has a ``name`` of its own.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from api.errors import ConfigError
from api.toml import read_toml
from jobcli.commands._command import IO_CLASSES, ISOLATION, size

LIMITS: Final = ("timeout", "memory", "cpus", "cpu-weight", "processes", "output", "open-files", "core", "nice")
FRACTIONS: Final = ("timeout", "cpus")
KEYS: Final = ("argv", "name", "env", "cwd", *LIMITS, "io-class", *ISOLATION)


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job of a file."""

    table: str
    argv: list[str]
    name: str
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    limits: dict[str, float | str] = field(default_factory=dict)
    isolation: dict[str, bool] = field(default_factory=dict)


def read(path: Path) -> list[JobEntry]:
    """The jobs of a file, in its order.

    Raises:
        ConfigError: it cannot be read, is no TOML, or a table is no job; names the table and key. All or nothing.
    """
    tables = read_toml(path, "the job file")
    if not tables:
        raise ConfigError(f'{path} has no job; write one table a job, with argv = ["command", …]')
    return [_entry(path, name, table) for name, table in tables.items()]


def _entry(path: Path, name: str, table: Any) -> JobEntry:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name!a} is not a table; write [{name}] and the job's keys below it")
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise ConfigError(f"{path}: [{name}] has an unknown key {unknown[0]!a}; a job has {', '.join(KEYS)}")
    argv, env = table.get("argv"), table.get("env", {})
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        raise ConfigError(f'{path}: [{name}] needs argv, a list of texts: argv = ["command", "argument"]')
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ConfigError(f'{path}: [{name}] has an env that is not a table of texts: env = {{ KEY = "value" }}')
    own_name, cwd = table.get("name", name), table.get("cwd", "")
    if not isinstance(own_name, str) or not isinstance(cwd, str):
        raise ConfigError(f"{path}: [{name}] has a name or cwd that is not a text")
    limits: dict[str, float | str] = {
        key.replace("-", "_"): _number(path, name, key, table[key]) for key in LIMITS if key in table
    }
    if "io-class" in table:
        limits["io_class"] = _one_of(IO_CLASSES, path, name, "io-class", table["io-class"])
    isolation = {key.replace("-", "_"): _truth(path, name, key, table[key]) for key in ISOLATION if key in table}
    return JobEntry(name, argv, own_name, env, cwd, limits, isolation)


def _one_of(choices: Iterable[str], path: Path, name: str, key: str, value: Any) -> str:
    for each in choices:
        if each == value:
            return each
    raise ConfigError(f"{path}: [{name}] has the {key} {value!a}; it can be {' or '.join(choices)}")


def _truth(path: Path, name: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: [{name}] has a {key} that is neither true nor false: {value!a}")
    return value


def _number(path: Path, name: str, key: str, value: Any) -> float:
    """A limit: a number, or a size as on the command line."""
    if isinstance(value, str) and key in ("memory", "output", "core"):
        try:
            return size(value)
        except ArgumentTypeError as exc:
            raise ConfigError(f"{path}: [{name}] has a {key} that is no size: {exc}") from exc
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (key not in FRACTIONS and value != int(value)):
        raise ConfigError(f"{path}: [{name}] has a {key} that is not a number: {value!a}")
    return value if key in FRACTIONS else int(value)
