"""Where the server is and who we are: flags, environment, profile files.

A flag wins over ``JOBCLI_<NAME>``, that over the profile: the file given with ``--profile``, else
``jobcli/profile.toml`` and then ``jobcli/dev.toml`` (which ``jobd dev`` leaves) below ``$XDG_CONFIG_HOME``, or
``~/.config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from api.errors import ConfigError, CredentialsError, JobdError
from api.nearest import nearest
from api.toml import read_toml_table

NAMES: Final = ("server", "cert", "key", "ca", "key_passphrase_file")
OPTIONAL: Final = ("key_passphrase_file",)
ENV_PREFIX: Final = "JOBCLI_"
ALIKE: Final = 0.9
"""How near a variable, with that prefix, is to one that was meant."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What it takes to reach a server.

    Attributes:
        origins: of what was not said as a flag, where it was: the line of a file, or a variable.
    """

    server: str
    cert: Path
    key: Path
    ca: Path
    key_passphrase_file: Path | None
    origins: Mapping[str, str] = field(default_factory=dict)

    def told(self, error: JobdError) -> str:
        """An error's message; with the place where it was said what the error is about, if it is about a setting."""
        message = str(error)
        if isinstance(error, (ConfigError, CredentialsError)):
            values = {name: str(getattr(self, name)) for name in self.origins}
            found = [(len(value), self.origins[name]) for name, value in values.items() if value in message]
            return f"{message} ({max(found)[1]})" if found else message
        return message


def directory(environment: Mapping[str, str]) -> Path:
    """Where profiles are."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "jobcli"


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Profile:
    """Put the settings together.

    Raises:
        ConfigError: one is missing, or a profile cannot be used.
    """
    _check_variables(environment)
    given = {n: flags.get(n) or environment.get(ENV_PREFIX + n.upper()) for n in NAMES}
    origins = {n: ENV_PREFIX + n.upper() for n in NAMES if given[n] and not flags.get(n)}
    if not all(given[n] for n in NAMES if n not in OPTIONAL):
        chosen = flags.get("profile")
        from_file, lines = _first_profile(Path(chosen) if chosen else None, environment)
        origins |= {n: lines[n] for n in lines if not given[n]}
        given = {n: value or from_file.get(n) for n, value in given.items()}
    missing = [f"--{n}" for n in NAMES if not given[n] and n not in OPTIONAL]
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)} (or JOBCLI_… in the environment, or a profile; "
            "'jobd dev' starts a throw-away server and leaves one)"
        )
    cert, key, ca = (Path(str(given[n])).expanduser() for n in ("cert", "key", "ca"))
    passphrase = given["key_passphrase_file"]
    return Profile(str(given["server"]), cert, key, ca, Path(passphrase).expanduser() if passphrase else None, origins)


def _check_variables(environment: Mapping[str, str]) -> None:
    """One that is nearly a setting's does nothing, and somebody believes that it does; others are not ours."""
    known = [ENV_PREFIX + name.upper() for name in NAMES]
    for variable, value in environment.items():
        if variable.startswith(ENV_PREFIX) and value and variable not in known:
            near = nearest(variable, known, ALIKE)
            if near:
                raise ConfigError(f"{variable}: there is no such setting{near}")


def _first_profile(chosen: Path | None, environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What it has, and where each of it is."""
    if chosen:
        return _read(chosen)
    for name in ("profile.toml", "dev.toml"):
        path = directory(environment) / name
        if path.exists():
            return _read(path)
    return {}, {}


def _read(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    table, place = read_toml_table(path, "the profile")
    keys = {name.replace("_", "-"): name for name in NAMES}
    wrong = [key for key, value in table.items() if key not in keys or not isinstance(value, str)]
    if wrong:
        near = "" if wrong[0] in keys else nearest(wrong[0], keys)
        raise ConfigError(
            f"the profile {place.of(wrong[0])} has {wrong[0]!a}: a profile has the texts {', '.join(keys)}{near}"
        )
    # A relative file in a profile is beside the profile.
    found = {keys[k]: v if k == "server" else str(path.parent / Path(v).expanduser()) for k, v in table.items()}
    return found, {keys[k]: f"{place.of(k)}: {k}" for k in table}
