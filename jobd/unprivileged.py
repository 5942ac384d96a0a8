"""A server without privileges: what needs root is done first, and then they are given up, for good.

From then on the launcher is what has them, and does with them only what it was told before (``launcher/allowed.py``).
The state directory belongs to the server's user, so nothing in it is touched as root: whoever had taken over an
earlier server could have put anything there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.errors import ConfigError
from jobd.config import Config
from jobd.launcher.become import forgo_privileges, kernel
from jobd.launcher.link import LauncherLink
from jobd.launcher.tracing import refuse_tracing
from jobd.limits.processes import stat_of
from jobd.worker.identity import Identity, UnknownAccountError, gid_of, look_up, own
from jobd.worker.isolation import Isolation

if TYPE_CHECKING:
    from jobd.launcher.allowed import Allowed

OTHERS_WRITE: Final = 0o022
CODE: Final = Path(__file__)


def server_user(config: Config) -> Identity | None:
    """Whom the server becomes; None when it stays what it is.

    Raises:
        ConfigError: it cannot.
    """
    if not config.user:
        return None
    name = f"--user {config.user}"
    if own().uid != 0:
        raise ConfigError(f"{name}: jobd has to be started as root to become another user")
    try:
        who = look_up(config.user)
    except UnknownAccountError as exc:
        raise ConfigError(f"--user: {exc}") from exc
    if who.uid == 0:
        raise ConfigError(f"{name}: that is root, who has all privileges; name an ordinary user")
    if not config.job_user:
        raise ConfigError(f"{name}: name the user that jobs run as as well, with --job-user")
    same = [each.name for each in _accounts(config) if each.uid == who.uid]
    if same:
        raise ConfigError(f"{name}: jobs may run as {same[0]} here, who could end the server and read its state")
    return who


def forgo_early(config: Config) -> None:
    """For a process with one thread, since it is each thread's own: no program that is executed gives privileges."""
    if config.user:
        forgo_privileges(kernel())


@contextmanager
def acting_as(who: Identity | None) -> Iterator[None]:
    """Do with files what this user may do, and nothing else; nothing is awaited meanwhile."""
    if who is None:
        yield
        return
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(who.groups)
    os.setegid(who.gid)
    os.seteuid(who.uid)
    refuse_tracing()
    try:
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
        refuse_tracing()


def make_state(path: Path, who: Identity | None) -> None:
    """Make the state directory for this user, if it is not there, and nobody else can put another in its place.

    Raises:
        ConfigError: it cannot be made.
    """
    if who is None or path.exists():
        return
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not is_of_root_alone(os.fstat(parent)):
                made = f"install -d -m 0700 -o {who.name} {path}"
                raise ConfigError(f"{path.parent} is not root's alone: make the state directory yourself, with: {made}")
            os.mkdir(path.name, 0o700, dir_fd=parent)
            made_fd = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchown(made_fd, who.uid, who.gid)
            finally:
                os.close(made_fd)
        finally:
            os.close(parent)
    except OSError as exc:
        raise ConfigError(f"the state directory {path} cannot be made: {exc.strerror}") from exc


def is_of_root_alone(directory: os.stat_result) -> bool:
    """Nobody else can put something else in the place of what root makes in it."""
    return not directory.st_uid and (not directory.st_mode & OTHERS_WRITE or bool(directory.st_mode & stat.S_ISVTX))


async def give_up(link: LauncherLink, config: Config, who: Identity) -> None:
    """Tell the launcher what is still to be done for us, and become that user.

    Raises:
        ConfigError: it cannot be done, or what there is would not do without privileges.
    """
    try:
        rooms = link.containment.give_to(who.uid, who.gid)
    except OSError as exc:
        raise ConfigError(f"--user: the control groups cannot be given to {who.name}: {exc.strerror}") from exc
    await link.allow(_allowed(link, config, who, list(rooms)))
    become(who)
    see_that_code_is_readable(who)
    if stat_of(os.getppid()) is None:
        raise ConfigError(f"--user: /proc hides other users' processes (hidepid) from {who.name}, who has to see jobs")
    link.containment.send = link.signal_pids


def see_that_code_is_readable(who: Identity) -> None:
    """Some of it is read when it is needed. For whom we act as now.

    Raises:
        ConfigError: this user cannot.
    """
    if not os.access(CODE, os.R_OK, effective_ids=True):
        where = "install it where everybody can read it"
        raise ConfigError(f"--user: {who.name} cannot read the code of jobd, in {CODE.parent}: {where}")


def become(who: Identity) -> None:
    """Have no privileges any more, in no thread.

    Raises:
        ConfigError: something of them is left.
    """
    try:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as exc:
        raise ConfigError(f"--user: this process cannot become {who.name}: {exc.strerror}") from exc
    refuse_tracing()
    left = what_is_left(who)
    if left:
        raise ConfigError(f"--user: this process has become {who.name}, and still has {left}")


def what_is_left(who: Identity) -> str:
    """What some thread of this process has beyond this user's; "" when that is nothing."""
    ids = {"Uid": {who.uid}, "Gid": {who.gid}, "Groups": set(who.groups)}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # it has ended
            lines = (thread / "status").read_text().splitlines()
            facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
            for name, expected in ids.items():
                if set(map(int, facts[name])) - expected:
                    return f"{name} {' '.join(facts[name])}"
            for name in ("CapPrm", "CapEff", "CapAmb"):
                if int(facts[name][0], 16):
                    return f"{name} {facts[name][0]}"
            if facts["NoNewPrivs"] != ["1"]:
                return "the means to gain privileges"
    return ""


def _allowed(link: LauncherLink, config: Config, who: Identity, rooms: list[str]) -> Allowed:
    from jobd.launcher.allowed import Allowed

    accounts, others = _accounts(config), _other_groups(config)
    sandbox = link.means.sandbox
    return Allowed(
        server=who.uid,
        users={each.uid: sorted({each.gid, *each.groups, *others}) for each in accounts},
        rooms=rooms,
        sandbox=sandbox.command(Isolation(private_tmp=True), who.uid)[0] if sandbox else "",
        gains=bool(sandbox and sandbox.gains),
        new_privileges=config.allow_new_privileges,
    )


def _accounts(config: Config) -> list[Identity]:
    """Those that anybody may run jobs as; those that there are not, cannot be had."""
    rules = [*config.run_as.principals.values(), *config.run_as.roles.values()]
    names = {config.job_user}.union(*(each.users for each in rules if each.users is not None))
    found = []
    for name in sorted(names):
        with suppress(UnknownAccountError):
            found.append(look_up(name))
    return found


def _other_groups(config: Config) -> set[int]:
    """Those that somebody may have beside the user's own."""
    rules = [*config.run_as.principals.values(), *config.run_as.roles.values()]
    names = frozenset[str]().union(*(each.groups for each in rules if each.groups is not None))
    found = set()
    for name in names:
        with suppress(UnknownAccountError):
            found.add(gid_of(name))
    return found
