"""What launcher, server and front say to each other: one JSON object a packet, with descriptors beside it (SCM_RIGHTS).

Over Unix sockets of type SOCK_SEQPACKET, so a packet comes whole or not at all. What can be long (a job's arguments
and environment) travels as a memfd.

    server → launcher
        launch     id; descriptors: memfd of :class:`jobd.launcher.program.Program`, and what is to be its stdin, if
                   that is given
        close_stdin  id                  let go of the pipe of its stdin
        allow      as :class:`jobd.launcher.allowed.Allowed`; from now on no more than this. Once, before the server
                   gives up its privileges
        signal     id, signal, main      to the job's process group, or its main process alone
        signal_pids  number, signal, id, pids: [[pid, start in ticks since boot]]  to those that descend from the
                   launcher, or have the mark of that job
        release    id                    the exit is recorded durably: forget the job
        keep       name; one descriptor  hold this for the server that comes after me
        saying                           I serve, and am about to tell whoever waits for that
        ready                            I serve, and have told
        alive                            you asked: I do
        elsewhere  path, pid; one descriptor: a socket to the launcher that has the state directory: be served there
    launcher → server
        hello      version, launcher, kept: [names], end, given; descriptors: those kept. end: you are there to end the
                   jobs. given: the socket to listen on is the front's, whatever its address
        job        id, pid, main, started_at, status or null, stdin; descriptors: stdout, stderr, a pidfd if it runs,
                   and what its stdin is written with, if there is such a thing. main: the pid of the job's process
        launched   as job
        failed     id, stage, errno, said  nothing runs. said: by what was to make a sandbox
        exited     id, status            the wait status (waitpid(2))
        signalled  number                the signals of that signal_pids are sent
        known                            all jobs that I have were told
        leave                            end, and leave the jobs to the server that comes next
        alive                            do you answer?
    front → launcher
        knock                            is there a front? (answered: serving or busy)
        serve      descriptors: memfd of {"command", "launcher", "env", "cwd"}, stdout, stderr, and the socket to listen
                   on, if that is given
        signal     signal                as if it had been sent to the launcher
        alive                            does the server answer?
    launcher → front
        serving    version               you can be, or are, served
        busy                             no: there is another front
        elsewhere  as above
        state      state, said           how the server is: ready, reloading, stopping, down; and a line for people
        alive                            you asked: it does
        ended      code                  the server has ended for good
    jobd upgrade → launcher
        upgrade
    launcher → jobd upgrade
        upgraded                         the new server serves
        failed     why

Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any, Final

VERSION: Final = 6
RUNS_AS_OTHERS: Final = 2
"""The first version in which a launcher knows of umask and identity."""
ISOLATES: Final = 3
"""The first one in which it knows of isolation, and of turns at a disk."""
FEEDS: Final = 3
"""The first version in which it knows of stdin and terminals."""
CONFINES: Final = 4
"""The first version in which it knows of servers without privileges."""
LISTENS: Final = 5
"""The first version in which it takes a socket to listen on from a front."""
HEARS_SAYING: Final = 6
"""The first version in which it is told that a server is about to tell that it serves."""
MAX_PACKET: Final = 64 * 1024
MAX_MEMFD: Final = 64 * 2**20
"""Bytes: the contract's 4 MiB, escaped at their worst, and as much again."""
MAX_FDS: Final = 8
MOST_PIDS: Final = 1000
"""In one packet."""
CONTROL: Final = "control"
"""The name of the kept descriptor at which visitors come in."""
LISTENER: Final = "listener"
"""That of the one at which clients do."""
SOCKET_ENVIRONMENT: Final = "JOBD_LAUNCHER_FD"
RESTART_ENVIRONMENT: Final = "JOBD_RESTARTED"
_INT: Final = struct.Struct("i")
_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_of(sock: socket.socket) -> int:
    """The user at the other end: who connected, or on the connecting side, who began to listen (unix(7))."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def pack(message: Message) -> bytes:
    """The packet for a message."""
    return json.dumps(message, separators=(",", ":")).encode()


def unpack(packet: bytes) -> Message:
    """The message in a packet."""
    message = json.loads(packet)
    assert isinstance(message, dict)
    return message


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Send a message; the descriptors stay open here.

    Raises:
        BlockingIOError: the other side is too far behind.
        OSError: the other side is gone.
    """
    socket.send_fds(sock, [pack(message)], fds or [])


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which are close-on-exec here; None when the other side is gone.

    Raises:
        BlockingIOError: there is none now.
    """
    # Not socket.recv_fds: it ignores its flags, and descriptors that can be inherited would reach every job.
    space = socket.CMSG_SPACE(MAX_FDS * _INT.size)
    try:
        packet, ancillary, _, _ = sock.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The other side has ended without hearing something of ours. The kernel tells that first, and once; what it had
        # said is there still, and may be the answer to what it has not heard.
        packet, ancillary, _, _ = sock.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    fds = [
        fd
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size])
    ]
    try:
        return (unpack(packet), fds) if packet else None
    except BaseException:  # whatever it was (it may be nested too deep): they are not to stay
        close_all(fds)
        raise


def close_all(fds: list[int]) -> None:
    """Close descriptors that came with a message."""
    for fd in fds:
        os.close(fd)


def as_memfd(content: Message) -> int:
    """A descriptor from which ``content`` can be read."""
    fd = os.memfd_create("jobd-spec", os.MFD_CLOEXEC)
    try:
        left = memoryview(pack(content))
        while left:
            left = left[os.write(fd, left) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def from_memfd(fd: int) -> Message:
    """What :func:`as_memfd` put there; closes the descriptor."""
    try:
        return unpack(os.pread(fd, min(os.fstat(fd).st_size, MAX_MEMFD), 0))  # it may grow meanwhile
    finally:
        os.close(fd)


def held_by(path: str, holder: str) -> str:
    """What the second one on a state directory is told first."""
    return f"the state directory {path} is held by another jobd (pid {holder})"
