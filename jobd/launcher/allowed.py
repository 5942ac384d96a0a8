"""What a server that has given up its privileges may still ask of a launcher that has them.

The server says it once, as root, before it gives them up. From then on it is not trusted: nothing that it says may make
the launcher do more than this. Its means against the machine are then those of the jobs' users.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import stat
from dataclasses import dataclass, field
from typing import Any, Final

from jobd.launcher import protocol
from jobd.launcher.become import IO_PRIORITIES

F_GET_SEALS: Final = 1034
LONGEST_ID: Final = 64
_ID: Final = re.compile(rf"[0-9A-Za-z-]{{1,{LONGEST_ID}}}")
_OPERATIONS: Final = frozenset(
    {"launch", "signal", "signal_pids", "close_stdin", "release", "saying", "ready", "alive"}
)
_MARK: Final = 10
_LIMITS: Final = frozenset({resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, _MARK})


NOT_TOLD: Final = "what is to be started is not told as it should be"


class RefusedError(Exception):
    """Why it is not allowed. The launcher's operator reads it; it has nothing long in it that the server said."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Bounds, for one server.

    Attributes:
        server: the user that the server becomes.
        users: whom jobs may run as, by number, and the groups that each may have.
        rooms: directories, in each of which a job's control group has the job's id as its name.
        sandbox: the program that may make sandboxes; "" is none.
        gains: it is set-user-ID, and its user must not be kept from gaining privileges by it.
        new_privileges: jobs may gain some.
    """

    server: int
    users: dict[int, list[int]]
    rooms: list[str] = field(default_factory=list)
    sandbox: str = ""
    gains: bool = False
    new_privileges: bool = False

    @classmethod
    def of(cls, message: protocol.Message) -> Allowed:
        """What a server says before it gives up its privileges: the attributes, by name."""
        users = {int(uid): list(gids) for uid, gids in message["users"].items()}
        names = ("server", "rooms", "sandbox", "gains", "new_privileges")
        return cls(users=users, **{name: message[name] for name in names})

    # ---- each is for what comes after that

    def see_to(self, message: protocol.Message, fds: list[int]) -> None:
        """See that a message is one that may come.

        Raises:
            RefusedError: it is not.
        """
        op = message.get("op")
        if not isinstance(op, str) or op not in _OPERATIONS:
            raise RefusedError("it has given up the right to that")
        if len(fds) not in ((0, 1, 2) if op == "launch" else (0,)):
            raise RefusedError("other descriptors come with it than should")
        about_one = op in ("launch", "signal", "close_stdin", "release") or (op == "signal_pids" and "id" in message)
        if about_one and not (isinstance(message.get("id"), str) and _ID.fullmatch(message["id"])):
            raise RefusedError("that is no job's id")
        if op in ("signal", "signal_pids") and not _is_number(message.get("signal"), 0, 64):
            raise RefusedError("that is no signal")
        if op == "signal" and not isinstance(message.get("main", False), bool):
            raise RefusedError("that is no signal")
        if op == "signal_pids" and not (_are_pids(message.get("pids")) and _is_number(message.get("number"), 0, 2**63)):
            raise RefusedError("those are no processes")
        if op == "launch":
            for fd in fds:
                self._see_to_file(fd)

    def see_to_program(self, id: str, spec: protocol.Message, nofile: int) -> None:
        """See that a job may be started so.

        Args:
            nofile: the highest limit on open files.

        Raises:
            RefusedError: it may not.
        """
        told = _texts(spec.get("argv")) and spec["argv"] and _is_text(spec.get("cwd")) and "identity" in spec
        if not (told and _text_table(spec.get("env")) and _text_table(spec.get("outside", {}))):
            raise RefusedError(NOT_TOLD)
        self._see_to_identity(spec.get("identity"))
        if spec.get("stdin", "none") not in ("none", "data", "pipe", "terminal"):
            raise RefusedError("that is no stdin")
        for path in _list(spec.get("enter")):
            if path not in [f"{room}/{id}/cgroup.procs" for room in self.rooms]:
                raise RefusedError("that is not the job's control group")
        for each in _list(spec.get("limits")):
            if not (isinstance(each, list) and len(each) == 2 and all(_is_number(number, 0, 2**62) for number in each)):
                raise RefusedError(NOT_TOLD)
            if each[0] not in _LIMITS:
                raise RefusedError("that limit is not a job's")
            core = resource.getrlimit(resource.RLIMIT_CORE)[1]
            hard = {resource.RLIMIT_NOFILE: nofile, resource.RLIMIT_CORE: core}.get(each[0], resource.RLIM_INFINITY)
            if hard != resource.RLIM_INFINITY and each[1] > hard:
                raise RefusedError("that limit is beyond the launcher's own")
        if not _is_number(spec.get("nice"), 0, 19) or not _is_number(spec.get("umask"), 0, 0o777):
            raise RefusedError("its nice value or umask is none that a job may have")
        if spec.get("io_priority", 0) not in IO_PRIORITIES:
            raise RefusedError("that turn at a disk is none that a job may have")
        self._see_to_sandbox(_list(spec.get("sandbox", [])), spec.get("no_new_privileges"))
        size = spec.get("size", [0, 0])
        if not (len(_list(size)) == 2 and all(_is_number(each, 0, 0xFFFF) for each in size)):
            raise RefusedError("that is no terminal's size")

    def _see_to_file(self, fd: int) -> None:
        """It is in memory, the server's own, and not endless. To read from a pipe, say, could take for ever; and what
        is a job's stdin is given to the job's user."""
        try:
            fcntl.fcntl(fd, F_GET_SEALS)
        except OSError as exc:
            raise RefusedError("what comes with it is no memfd") from exc
        status = os.fstat(fd)
        if status.st_uid != self.server or status.st_nlink or not stat.S_ISREG(status.st_mode):
            raise RefusedError("what comes with it is no memfd of the server's")
        if status.st_size > protocol.MAX_MEMFD:
            raise RefusedError("what comes with it takes too long to read")

    def _see_to_identity(self, identity: Any) -> None:
        if identity is None:
            uid, gids = os.geteuid(), [os.getegid(), *os.getgroups()]
        else:
            if not (isinstance(identity, list) and len(identity) == 3 and isinstance(identity[2], list)):
                raise RefusedError("that is no user")
            uid, gids = identity[0], [identity[1], *identity[2]]
        if not all(_is_number(each, 0, 2**32 - 2) for each in (uid, *gids)) or uid not in self.users:
            raise RefusedError("jobs may not run as that user")
        if not set(gids) <= set(self.users[uid]):
            raise RefusedError("that user may not have that group")

    def _see_to_sandbox(self, sandbox: list[Any], no_new_privileges: Any) -> None:
        if sandbox and (not self.sandbox or sandbox[0] != self.sandbox):
            raise RefusedError("that program does not make sandboxes")
        if no_new_privileges is not True and not self.new_privileges and not (sandbox and self.gains):
            raise RefusedError("jobs may not gain privileges")


def read_program(memfd: int) -> protocol.Message:
    """What is to be started; closes the descriptor.

    Raises:
        RefusedError: it is not told as it should be.
    """
    try:
        return protocol.from_memfd(memfd)
    except (OSError, ValueError, AssertionError, RecursionError) as exc:
        raise RefusedError(NOT_TOLD) from exc


def remove_rooms(rooms: list[str]) -> None:
    """Remove those directories of control groups that are empty: a server without privileges cannot."""
    for room in rooms:
        with contextlib.suppress(OSError):  # it is not empty, or another jobd's by now
            os.rmdir(room)  # noqa: PTH106 # pathlib is large, and this is all it would do


def _is_number(value: Any, lowest: int, highest: int) -> bool:
    return type(value) is int and lowest <= value <= highest


def _are_pids(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= protocol.MOST_PIDS and all(map(_is_pid, value))


def _is_pid(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_number(value[0], 1, 2**31 - 1)
        and _is_number(value[1], 0, 2**63)
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(NOT_TOLD)
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _text_table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))
