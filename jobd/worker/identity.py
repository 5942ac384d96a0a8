"""Whom a process runs as: the accounts of this machine (passwd(5), group(5), and whatever else it asks).

A look-up may wait for a network (nsswitch.conf(5)): call it in a thread.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
from dataclasses import dataclass

from api.errors import JobdError


class UnknownAccountError(JobdError):
    """There is no user, or no group, of this name.

    Attributes:
        field: "user" or "group".
    """

    def __init__(self, field: str, name: str) -> None:
        super().__init__(f"there is no {field} {name!a} here")
        self.field = field


@dataclass(frozen=True, slots=True)
class Identity:
    """A user with a group.

    Attributes:
        groups: the supplementary ones; ``gid`` is among them.
    """

    name: str
    home: str
    uid: int
    gid: int
    groups: tuple[int, ...]


@functools.cache
def own() -> Identity:
    """That of this process, as it was at the first call. It need not have an account."""
    uid, gid = os.geteuid(), os.getegid()
    groups = tuple(sorted({gid, *os.getgroups()}))
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(str(uid), "/", uid, gid, groups)
    return Identity(entry.pw_name, entry.pw_dir, uid, gid, groups)


def look_up(user: str, group: str = "") -> Identity:
    """A user of this machine, in all of its groups, with this one in place of its own if one is given.

    Raises:
        UnknownAccountError: there is no such user or group.
    """
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError) as exc:
        raise UnknownAccountError("user", user) from exc
    gid = gid_of(group) if group else entry.pw_gid
    return Identity(entry.pw_name, entry.pw_dir, entry.pw_uid, gid, tuple(sorted(os.getgrouplist(entry.pw_name, gid))))


def gid_of(group: str) -> int:
    """The number of a group.

    Raises:
        UnknownAccountError: there is none of this name.
    """
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError) as exc:
        raise UnknownAccountError("group", group) from exc
