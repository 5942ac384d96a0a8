"""The daemon's settings: one frozen value, from flags, environment and a TOML file.

A flag wins over ``JOBD_<NAME>``, that over the file, that over the default. The names are the same everywhere:
``--max-pending``, ``JOBD_MAX_PENDING`` and ``max-pending = …`` in the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from api.errors import ConfigError
from api.nearest import nearest
from api.toml import Place, number, read_toml_table, whole
from jobd.needs import alone
from jobd.quota import QuotaPolicy
from jobd.rules import TABLES, rules_of
from jobd.worker.policy import LimitPolicy
from jobd.worker.run_as import RunAsPolicy

ENV_PREFIX: Final = "JOBD_"
OTHER_VARIABLES: Final = frozenset({"JOBD_CONFIG", "JOBD_JOB_ID"})
"""Variables that are no settings: the file, and what a job is told (and a jobd that is one)."""
ALIKE: Final = 0.75
"""How near a variable is to a setting that was meant. Others with the prefix are somebody else's: container platforms
make variables of services' names."""
FILE: Final = "the configuration file"
Flags = Mapping[str, str | bool | None]
"""What was given on the command line, by field name; None for what was not."""


def _setting(help: str, metavar: str, default: Any = dataclasses.MISSING, minimum: float = 0) -> Any:
    return field(default=default, metadata={"help": help, "metavar": metavar, "minimum": minimum})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What ``jobd`` runs with. Times are in seconds."""

    cert: Path = _setting("the server's certificate (PEM)", "FILE")
    key: Path = _setting("the server's private key (PEM)", "FILE")
    ca: Path = _setting("the certificate of the CA that signs clients (PEM)", "FILE")
    key_passphrase_file: Path | None = _setting(
        "the first line of FILE opens the private key, if that is encrypted", "FILE", None
    )
    crl: Path | None = _setting(
        "the CA's revocation list, or those of several CAs (PEM): whose certificate is on it is not let in",
        "FILE",
        None,
    )
    crl_policy: str = _setting(
        "what holds where the lists say nothing, since one is missing, past its time or another CA's: hard-fail "
        "(jobd does not start, new files are not taken, clients are not let in) or soft-fail (it goes on without); not "
        "without --crl",
        "POLICY",
        "hard-fail",
    )
    listen: str = _setting("the address to listen on; port 0 takes a free one", "HOST:PORT", "127.0.0.1:50051")
    state: Path = _setting("the directory for job records and output; made if it is not there", "DIR")
    workers: int = _setting("how many workers this machine is", "N", 1, 1)
    slots: int = _setting("how many jobs each worker runs at a time", "N", 64, 1)
    max_pending: int = _setting("how many jobs may wait for a free worker", "N", 10_000)
    grace: float = _setting("from SIGTERM to SIGKILL, when a stop does not say", "SECONDS", 10.0)
    drain: float = _setting("how long output is waited for after a job's process has ended", "SECONDS", 5.0)
    max_output: int = _setting("bytes of each job's output that are recorded; more is dropped", "BYTES", 4 * 2**30)
    keep_days: float = _setting("how long a job that has ended is kept", "DAYS", 30.0)
    keep_jobs: int = _setting("how many jobs that have ended are kept", "N", 100_000)
    keep_output: int = _setting(
        "bytes of output that are kept of all jobs together; what ended first goes first", "BYTES", 64 * 2**30
    )
    shutdown: float = _setting("how long open calls may go on after SIGTERM", "SECONDS", 3.0)
    containment: str = _setting(
        "what holds a job's processes together: auto, cgroup (of either version), cgroup-v1, cgroup-v2 or none",
        "KIND",
        "auto",
    )
    allow_new_privileges: bool = _setting(
        "let jobs ask for allow_new_privileges: sudo and the like work in them", "", False
    )
    stop_jobs: bool = _setting("end the jobs on SIGTERM (default: they go on, for the next jobd)", "", False)
    connections: int = _setting("how many connections may be open at a time", "N", 1024, 1)
    keepalive: float = _setting(
        "between two PINGs to a client; one unanswered as long ends its connection", "SECONDS", 30.0, 1
    )
    heartbeat: float = _setting("after which a quiet output stream gets a sign of life", "SECONDS", 15.0)
    job_user: str = _setting("the user that jobs run as when they do not say (default: jobd's own)", "USER", "")
    user: str = _setting(
        "the user that the server becomes, when it has read its key; it then has no privileges, and the launcher "
        "starts jobs for it (default: it stays who started jobd)",
        "USER",
        "",
    )
    pool: str = _setting(
        "be in the pool of machines that is kept in this etcd (default: jobd is one machine)",
        "etcd://HOST:PORT[,…]",
        "",
    )
    pool_prefix: str = _setting("the word that all keys of the pool begin with, in etcd", "P", "jobd")
    pool_cert: Path | None = _setting("the certificate that etcd knows this machine by (PEM)", "FILE", None)
    pool_key: Path | None = _setting("its private key (PEM)", "FILE", None)
    pool_ca: Path | None = _setting("the certificate of the CA that signs etcd's (PEM)", "FILE", None)
    pool_secrets: Path | None = _setting(
        "keys that the pool's secrets are sealed with, 64 hexadecimal digits a line; the first seals, each opens "
        "(default: jobs with secrets are refused)",
        "FILE",
        None,
    )
    pool_keep: int = _setting("how many jobs that have ended the pool knows", "N", 10_000)
    advertise: str = _setting("where other machines of the pool reach this one", "HOST:PORT", "")
    broker_cert: Path | None = _setting(
        "the certificate, of a client with the role broker, that this machine hands calls on with (PEM)", "FILE", None
    )
    broker_key: Path | None = _setting("its private key (PEM)", "FILE", None)
    worker: bool = _setting("in the pool, run jobs too, and not only hand them on (default: yes)", "", True)
    worker_name: str = _setting(
        "this machine's name in the pool; the server's certificate has to be for it (default: the host's)", "NAME", ""
    )
    labels: str = _setting("what jobs may ask for of this machine", "K=V[,…]", "")
    log_level: str = _setting("debug, info, warning or error", "LEVEL", "info")
    audit_log: Path | None = _setting(
        "write a line for each call into FILE, each with the sum of the one before (default: into the log)",
        "FILE",
        None,
    )
    metrics: str = _setting(
        "tell Prometheus how the server is, at http://HOST:PORT/metrics (default: nobody is told)", "HOST:PORT", ""
    )
    metrics_anywhere: bool = _setting(
        "let --metrics be an address that other machines can reach; it has neither TLS nor certificates", "", False
    )
    metrics_file: Path | None = _setting(
        "write the same into FILE, for node_exporter's textfile collector", "FILE", None
    )
    metrics_interval: float = _setting(
        "between two writings of that file; not without --metrics-file", "SECONDS", 15.0, 1
    )
    # Only in the file: [limits], [quota], [roles.ROLE] and [principals.NAME].
    limits: LimitPolicy = field(default_factory=LimitPolicy)
    run_as: RunAsPolicy = field(default_factory=RunAsPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)


FIELDS: Final = {f.name: f for f in dataclasses.fields(Config) if f.metadata}
CHOICES: Final = {
    "log_level": ("debug", "info", "warning", "error"),
    "crl_policy": ("hard-fail", "soft-fail"),
    "containment": ("auto", "cgroup", "cgroup-v1", "cgroup-v2", "none"),
}


def key_of(name: str) -> str:
    """The name of a setting as people write it."""
    return name.replace("_", "-")


def load(flags: Flags, environment: Mapping[str, str], file: Path | None) -> Config:
    """Put the settings together.

    Args:
        flags: of the command line.
        environment: variables with the prefix ``JOBD_`` are settings.
        file: a TOML file.

    Raises:
        ConfigError: a setting is missing, unknown, has a value that it cannot have, or says nothing without another;
            names it and its origin.
    """
    values = _together(flags, environment, file)
    if lonely := alone(values):
        name, other = lonely
        raise ConfigError(f"{_origin(name, flags, environment, file)}: there is no --{key_of(other)}")
    missing = [n for n, f in FIELDS.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        names = ", ".join(f"--{key_of(name)}" for name in missing)
        raise ConfigError(f"missing: {names} (or the same in a file given with --config, or JOBD_… in the environment)")
    config = Config(**values)
    return dataclasses.replace(config, run_as=dataclasses.replace(config.run_as, job_user=config.job_user))


def _together(flags: Flags, environment: Mapping[str, str], file: Path | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    values.update(_from_file(file) if file else {})
    values.update(_from_environment(environment))
    values.update({n: _convert(n, v, partial("--{}".format, key_of(n))) for n, v in flags.items() if v is not None})
    return values


def _origin(name: str, flags: Flags, environment: Mapping[str, str], file: Path | None) -> str:
    """Who said it: what wins."""
    variable = ENV_PREFIX + name.upper()
    if flags.get(name) is not None:
        return f"--{'no-' if flags[name] is False else ''}{key_of(name)}"
    if environment.get(variable) or file is None:
        return variable
    return _in_file(read_toml_table(file, FILE)[1], key_of(name))


def load_state(flag: str | None, environment: Mapping[str, str], file: Path | None) -> Path:
    """The state directory alone, found as :func:`load` finds it.

    Raises:
        ConfigError: it is not given, or what is given cannot be used.
    """
    values = _together({"state": flag}, environment, file)
    if "state" not in values:
        raise ConfigError("missing: --state (or the same in a file given with --config, or JOBD_STATE)")
    state: Path = values["state"]
    return state


def _from_file(path: Path) -> dict[str, Any]:
    table, place = read_toml_table(path, FILE)
    limits, run_as, quota = rules_of({name: table.pop(name, {}) for name in TABLES}, place)
    settings = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in FIELDS or "_" in key:
            near = nearest(key, [*map(key_of, FIELDS), *TABLES])
            raise ConfigError(f"{place.of(key)}: there is no setting {key!a}{near}")
        settings[name] = _convert(name, value, partial(_in_file, place, key))
    return {**settings, "limits": limits, "run_as": run_as, "quota": quota}


def _in_file(place: Place, key: str) -> str:
    return f"{place.of(key)}: {key}"


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {ENV_PREFIX + name.upper(): name for name in FIELDS}
    for variable in environment.keys() - found.keys() - OTHER_VARIABLES:
        if variable.startswith(ENV_PREFIX) and environment[variable]:
            near = nearest(variable.removeprefix(ENV_PREFIX), [n.upper() for n in FIELDS], ALIKE)
            if near:
                named = near.replace("did you mean ", f"did you mean {ENV_PREFIX}")
                raise ConfigError(f"{variable}: there is no such setting{named}")
    return {n: _convert(n, environment[var], partial(str, var)) for var, n in found.items() if environment.get(var)}


def _convert(name: str, value: Any, where: Callable[[], str]) -> Any:
    kind = FIELDS[name].type
    try:
        converted = _CONVERTERS[str(kind)](value)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{where()}: {value!a} is not {_KINDS[str(kind)]}") from exc
    minimum = FIELDS[name].metadata["minimum"]
    if isinstance(converted, (int, float)) and not isinstance(converted, bool) and not minimum <= converted < 2**63:
        raise ConfigError(f"{where()}: {value!a} is not between {minimum:g} and {2**63 - 1}")
    choices = CHOICES.get(name)
    if choices and converted not in choices:
        raise ConfigError(f"{where()}: {value!a} is not one of {', '.join(choices)}{nearest(converted, choices)}")
    return converted


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(value.lower())
    if not isinstance(value, bool):
        raise TypeError
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise TypeError
    return value


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": whole,
    "float": number,
    "str": _text,
    "Path": _path,
    "Path | None": _path,
    "bool": _truth,
}
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "Path": "a path",
    "Path | None": "a path",
    "bool": "true or false",
}
