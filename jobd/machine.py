"""What this machine has to hold jobs together and to isolate them, as far as the settings ask for it."""

from __future__ import annotations

import os
import zlib

from api.errors import ConfigError
from jobd.config import Config
from jobd.limits.detect import Choice, detect
from jobd.limits.isolation import detect_isolation
from jobd.worker.containment import Containment
from jobd.worker.identity import Identity, UnknownAccountError, look_up, own
from jobd.worker.isolation import Means


def what_there_is(config: Config) -> tuple[Containment, Means]:
    """What is to hold the jobs together, and what they can be isolated with.

    Raises:
        ConfigError: what was asked for cannot be had.
    """
    # First: in a group of version 2 that is to be shared out, there may be none of the processes that the second tries.
    containment = _containment(config)
    return containment, means_of(config)


def means_of(config: Config) -> Means:
    """What jobs can be isolated with. Blocks.

    Raises:
        ConfigError: the user that they are to run as is none.
    """
    who = job_user(config.job_user)
    return detect_isolation(allow_new_privileges=config.allow_new_privileges, who=who)


def job_user(name: str) -> Identity | None:
    """The user that jobs are to run as; None for our own.

    Raises:
        ConfigError: there is none, or this process cannot become it.
    """
    if name in ("", own().name):
        return None
    try:
        who = look_up(name)
    except UnknownAccountError as exc:
        raise ConfigError(f"--job-user: {exc}") from exc
    if os.geteuid() != 0:
        raise ConfigError(f"--job-user {name}: jobd has to run as root for jobs to run as other users")
    return who


def _containment(config: Config) -> Containment:
    """What is to hold the jobs together.

    Raises:
        ConfigError: what was asked for cannot be had.
    """
    # Two daemons on one machine have different state directories, and one has the same after a restart.
    name = f"jobd-{zlib.crc32(os.fsencode(config.state.absolute())):08x}"
    try:
        found = detect(name, Choice(config.containment))
    except OSError as exc:
        raise ConfigError(f"--containment {config.containment}: {exc.strerror}") from exc
    missing = sorted(config.limits.contained - found.limits)
    if missing:
        raise ConfigError(f"the limits of {', '.join(missing)} in the configuration cannot be held here ({found.name})")
    return found
