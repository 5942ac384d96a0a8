"""The tables of the configuration file that say what jobs may use, whom they may run as, and how much is for whom.

[limits]                     for everyone
[limits.max]
[quota]
[roles.writer]               over that, for those who have a role
users = ["build", "test"]
groups = ["audio"]
[roles.writer.limits.max]
[roles.reader.quota]
[principals.alice]           over all, for one principal
users = ["alice"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api.errors import ConfigError
from api.identity import Role
from api.nearest import nearest
from api.toml import Place, number, whole
from jobd.quota import UNLIMITED, Quota, QuotaPolicy
from jobd.worker.containment import Limits
from jobd.worker.job import LIMITS
from jobd.worker.policy import Bounds, LimitPolicy
from jobd.worker.run_as import Accounts, RunAsPolicy

TABLES: Final = ("limits", "quota", "roles", "principals")
HOLDERS: Final = (Role.READER, Role.WRITER)
"""The roles that something is for; what a broker does is counted for those whom it does it for."""
STARTERS: Final = (Role.WRITER,)
"""The roles whose holders start jobs."""
_KEYS: Final = ("limits", "users", "groups", "quota")


def rules_of(tables: Mapping[str, Any], where: Place) -> tuple[LimitPolicy, RunAsPolicy, QuotaPolicy]:
    """What the tables of these names (:data:`TABLES`) say.

    Args:
        where: the file's own table, for errors.

    Raises:
        ConfigError: one has something that it cannot have; names it.
    """
    everyone = _bounds(tables["limits"], where.below("limits"))
    limits, accounts, quotas = {}, {}, {}
    for kind in ("roles", "principals"):
        named = tables[kind]
        if not isinstance(named, dict):
            raise ConfigError(f"{where.of(kind)}: {kind} is not a table")
        for name, table in named.items():
            if kind == "roles":
                _check_name(name, where.below(kind))
            _check_keys(table, where.below(kind, name))
            if kind == "roles":
                _check_role(name, table, where.below(kind, name))
        limits[kind] = {
            name: _bounds(table["limits"], where.below(kind, name, "limits"))
            for name, table in named.items()
            if "limits" in table
        }
        accounts[kind] = {name: _accounts(table, where.below(kind, name)) for name, table in named.items()}
        quotas[kind] = {
            name: _quota(table.get("quota", {}), where.below(kind, name, "quota")) for name, table in named.items()
        }
    return (
        LimitPolicy(everyone, limits["principals"], limits["roles"]),
        RunAsPolicy(principals=accounts["principals"], roles=accounts["roles"]),
        QuotaPolicy(_quota(tables["quota"], where.below("quota")), quotas["principals"], quotas["roles"]),
    )


def _check_name(name: str, where: Place) -> None:
    if name not in HOLDERS:
        raise ConfigError(f"{where.below(name)}: the roles are {' and '.join(HOLDERS)}{nearest(name, HOLDERS)}")


def _check_role(name: str, table: dict[str, Any], where: Place) -> None:
    beyond = sorted(table.keys() - {"quota"})
    if name not in STARTERS and beyond:
        raise ConfigError(f"{where.of(beyond[0])}: the role that starts jobs is {' or '.join(STARTERS)}")


def _check_keys(table: Any, where: Place) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is not a table")
    for key in table.keys() - set(_KEYS):
        limits = f"limits are in [{'.'.join(where.table)}.limits]"
        raise ConfigError(
            f"{where.of(key)} has {key!a}, and can have {', '.join(_KEYS)}: {limits}{nearest(key, _KEYS)}"
        )


def _accounts(table: dict[str, Any], where: Place) -> Accounts:
    return Accounts(_names(table, "users", where), _names(table, "groups", where))


def _names(table: dict[str, Any], key: str, where: Place) -> frozenset[str] | None:
    if key not in table:
        return None
    names = table[key]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() and name for name in names):
        raise ConfigError(f"{where.of(key)}: {key} is {names!a}, and not a list of names")
    return frozenset(names)


def _bounds(table: Any, where: Place) -> Bounds:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is not a table")
    values = dict(table)
    ceiling = values.pop("max", {})
    if not isinstance(ceiling, dict):
        raise ConfigError(f"{where.of('max')}: max is not a table")
    return Bounds(_limits(values, where), _limits(ceiling, where.below("max")))


def _limits(table: dict[str, Any], where: Place) -> Limits:
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in LIMITS or "_" in key:
            names = [each.replace("_", "-") for each in LIMITS]
            raise ConfigError(f"{where.of(key)}: there is no limit {key!a}{nearest(key, names)}")
        if name in FLAGS:
            if not isinstance(value, bool):
                raise ConfigError(f"{where.of(key)}: {key} is {value!a}, and neither true nor false")
            values[name] = value
            continue
        if name == "io_class":
            values[name] = _io_class(value, where)
            continue
        _, lowest, highest = LIMITS[name]
        try:
            amount = _size(value) if name in SIZES else number(value)
        except (TypeError, ValueError) as exc:
            kind = "size" if name in SIZES else "number"
            raise ConfigError(f"{where.of(key)}: {key} is {value!a}, which is no {kind}") from exc
        if not lowest <= amount <= highest or (name not in FRACTIONS and amount != int(amount)):
            raise ConfigError(f"{where.of(key)}: {key} is {value!a}, and not between {lowest:.15g} and {highest:.15g}")
        values[name] = amount if name in FRACTIONS else int(amount)
    return Limits(**values)


def _quota(table: Any, where: Place) -> Quota:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is not a table")
    values = {}
    for key, value in table.items():
        if key not in QUOTAS:
            raise ConfigError(f"{where.of(key)}: there is no quota {key!a}{nearest(key, QUOTAS)}")
        values[key.replace("-", "_")] = UNLIMITED if value == "unlimited" else _amount(key, value, where)
    return Quota(**values)


def _amount(key: str, value: Any, where: Place) -> float:
    lowest, highest, of_whole = QUOTAS[key]
    try:
        amount = whole(value) if of_whole else number(value)
    except (TypeError, ValueError) as exc:
        kind = "whole number" if of_whole else "number"
        raise ConfigError(f"{where.of(key)}: {key} is {value!a}, and neither a {kind} nor 'unlimited'") from exc
    if not lowest <= amount <= highest:
        raise ConfigError(f"{where.of(key)}: {key} is {value!a}, and not between {lowest:g} and {highest:g}")
    return amount


def _io_class(value: Any, where: Place) -> int:
    if not isinstance(value, str) or value not in IO_CLASSES:
        near = nearest(value, IO_CLASSES) if isinstance(value, str) else ""
        raise ConfigError(
            f"{where.of('io-class')}: io-class is {value!a}, and not one of {', '.join(IO_CLASSES)}{near}"
        )
    return IO_CLASSES[value]


def _size(value: Any) -> int:
    """A number of bytes, or a text with K, M or G behind the number."""
    if isinstance(value, str) and value[-1:].upper() in UNITS:
        return int(value[:-1]) * UNITS[value[-1].upper()]
    return whole(value)


QUOTAS: Final = {
    "calls-per-second": (0.01, 1e6, False),
    "streams": (1, 1e6, True),
    "jobs": (1, 1e6, True),
    "connections": (1, 1e6, True),
}
"""Each with its bounds, and whether it is a whole number."""
SIZES: Final = ("memory", "output", "core")
FRACTIONS: Final = ("cpus", "timeout")
FLAGS: Final = ("stop_at_output",)
IO_CLASSES: Final = {"idle": 1, "best-effort": 2}
UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30}
