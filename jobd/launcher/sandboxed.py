"""What the launcher hears from a job's process inside a sandbox, and what the kernel says of its end.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""
PIDFD_GET_INFO: Final = 0xC040FF0B
"""The number of this ioctl for the first form of struct pidfd_info (linux/pidfd.h), of 64 bytes: a mask, the control
group, eleven numbers, and last the wait status."""
_INFO: Final = struct.Struct("QQ11Ii")
_EXIT: Final = 1 << 3


def channel() -> tuple[int, int]:
    """A socket for us, and one for the process inside. What comes over ours tells who sent it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours.detach(), theirs.detach()


def receive(fd: int) -> tuple[bytes, int]:
    """What was said, b"" when there is nobody any more; and the pid of who said it, as it is called out here."""
    sock = socket.socket(fileno=fd)
    try:
        said, ancillary, _, _ = sock.recvmsg(64, socket.CMSG_SPACE(_CREDENTIALS.size))
    except ConnectionError:  # it was killed before it took our answer
        return b"", 0
    finally:
        sock.detach()
    pids = [
        _CREDENTIALS.unpack(data)[0]
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    ]
    return said, pids[0] if pids else 0


def go_on(fd: int) -> None:
    """Let the process inside go on."""
    with contextlib.suppress(OSError):  # it is gone, and we meet that next
        os.write(fd, b"go")


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that somebody else has reaped; None where the kernel cannot tell (before Linux
    6.15), or it was not reaped."""
    info = bytearray(_INFO.pack(_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, status = _INFO.unpack_from(info)
    return status if mask & _EXIT else None
