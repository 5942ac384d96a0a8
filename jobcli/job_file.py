"""Several jobs in one TOML file, one table a job:

    [build]
    argv = ["make", "-j2"]
    cwd = "/srv/project"
    env = { CC = "clang" }
    secret = { TOKEN = "@token" }

The table's name is the job's name, unless it has a ``name`` of its own. A relative file of a secret is beside this one.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from api.errors import ConfigError
from api.nearest import nearest
from api.toml import Place, read_toml_table
from jobcli import secret
from jobcli.commands._command import IO_CLASSES, ISOLATION, LONGEST, isolation_of, mask, size

_BYTES, _COUNT = 2**63 - 1, 2**31 - 1
LIMITS: Final = {
    "timeout": LONGEST,
    "memory": _BYTES,
    "cpus": _COUNT,
    "cpu-weight": _COUNT,
    "processes": _COUNT,
    "output": _BYTES,
    "open-files": _BYTES,
    "core": _BYTES,
    "nice": _COUNT,
}
"""Each with the most that the protocol carries, or that makes sense."""
FRACTIONS: Final = ("timeout", "cpus")
FLAGS: Final = ("stop-at-output",)
TEXTS: Final = ("name", "cwd", "user", "group")
KEYS: Final = (
    *("argv", "name", "env", "secret", "cwd", "user", "group", "umask", "on", "retry-lost"),
    *(*LIMITS, *FLAGS, "io-class", *ISOLATION),
)


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job of a file.

    Attributes:
        asked: arguments of :meth:`api.client.JobClient.start`.
    """

    table: str
    argv: list[str]
    asked: dict[str, Any]
    limits: dict[str, float | str] = field(default_factory=dict)


def read(path: Path) -> list[JobEntry]:
    """The jobs of a file, in its order.

    Raises:
        ConfigError: it cannot be read, is no TOML, or a table is no job; names the table and key. All or nothing.
    """
    tables, place = read_toml_table(path, "the job file")
    if not tables:
        raise ConfigError(f'{path} has no job; write one table a job, with argv = ["command", …]')
    return [_entry(place.below(name), name, table) for name, table in tables.items()]


def _entry(where: Place, name: str, table: Any) -> JobEntry:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} {name!a} is not a table; write [{name}] and the job's keys below it")
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        near = nearest(unknown[0], KEYS)
        raise ConfigError(
            f"{where.of(unknown[0])} has an unknown key {unknown[0]!a}; a job has {', '.join(KEYS)}{near}"
        )
    argv, env = table.get("argv"), table.get("env", {})
    if not isinstance(argv, list) or not argv or not all(isinstance(each, str) for each in argv):
        raise ConfigError(f'{where.of("argv")} needs argv, a list of texts: argv = ["command", "argument"]')
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ConfigError(f'{where.of("env")} has an env that is not a table of texts: env = {{ KEY = "value" }}')
    on = table.get("on", {})
    if not isinstance(on, dict) or not all(isinstance(value, str) for value in on.values()):
        raise ConfigError(f'{where.of("on")} has an on that is not a table of texts: on = {{ LABEL = "value" }}')
    secrets = table.get("secret", {})
    if not isinstance(secrets, dict) or not all(isinstance(value, str) for value in secrets.values()):
        raise ConfigError(
            f'{where.of("secret")} has a secret that is not a table of texts: secret = {{ KEY = "@FILE" }}'
        )
    texts = {key: table.get(key, "") for key in TEXTS} | {"name": table.get("name", name)}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where.of(key)} has a {key} that is not a text")
    limits: dict[str, float | str] = {
        key.replace("-", "_"): _number(where, key, table[key]) for key in LIMITS if key in table
    }
    if "io-class" in table:
        limits["io_class"] = _one_of(IO_CLASSES, where, "io-class", table["io-class"])
    limits.update({key.replace("-", "_"): _flag(where, key, table[key]) for key in FLAGS if key in table})
    isolation = {key.replace("-", "_"): _flag(where, key, table[key]) for key in ISOLATION if key in table}
    try:
        read = {key: secret.read(key, source, beside=where.file.parent) for key, source in secrets.items()}
    except ConfigError as exc:
        raise ConfigError(f"{where.of('secret')}: {exc}") from None  # as in secret.read: no cause that has the bytes
    asked = {**texts, "env": env, "secrets": read, "umask": _mask(where, table), "worker_labels": on}
    asked["retry_lost"] = _count(where, "retry-lost", table.get("retry-lost", 0))
    return JobEntry(name, argv, {**asked, "isolation": isolation_of(isolation)}, limits)


def _mask(where: Place, table: dict[str, Any]) -> int | None:
    """A umask: a text as on the command line."""
    if "umask" not in table:
        return None
    text = table["umask"]
    try:
        return mask(text if isinstance(text, str) else "")
    except ArgumentTypeError as exc:
        raise ConfigError(
            f'{where.of("umask")} has a umask that is not an octal number as a text: umask = "027"'
        ) from exc


def _count(where: Place, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ConfigError(f"{where.of(key)} has a {key} that is not a whole number, from 0 to 10: {value!a}")
    return value


def _one_of(choices: Iterable[str], where: Place, key: str, value: Any) -> str:
    for each in choices:
        if each == value:
            return each
    raise ConfigError(f"{where.of(key)} has the {key} {value!a}; it can be {' or '.join(choices)}")


def _flag(where: Place, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where.of(key)} has a {key} that is neither true nor false: {value!a}")
    return value


def _number(where: Place, key: str, value: Any) -> float:
    """A limit: a number, or a size as on the command line."""
    if isinstance(value, str) and key in ("memory", "output", "core"):
        try:
            value = size(value)
        except ArgumentTypeError as exc:
            raise ConfigError(f"{where.of(key)} has a {key} that is no size: {exc}") from exc
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (isinstance(value, float) and (key in FRACTIONS or value.is_integer()))):
        raise ConfigError(f"{where.of(key)} has a {key} that is not a number: {value!a}")
    if value == 0:
        raise ConfigError(f"{where.of(key)} has a {key} of 0, which is no limit; without it the server's holds")
    if not 0 < value <= LIMITS[key]:
        raise ConfigError(f"{where.of(key)} has a {key} that cannot be: {value!a}")
    return value if key in FRACTIONS else int(value)
