"""A job's program that does not let its environment be read: ``python -m tests.faults.unreadable DIR``, as root.

It has mapped a file of a file system that does not answer (fuse(4), of which it is the server itself), reads it in one
thread, and wants more memory in another: from then on its memory is locked, and who reads what is in it waits.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

INIT, LOOKUP, GETATTR, OPEN, READ, FORGET, FLUSH = 26, 1, 3, 14, 15, 2, 25
UNIMPLEMENTED: Final = -38
libc: Final = ctypes.CDLL(None, use_errno=True)


def attributes(inode: int) -> bytes:
    mode = 0o40755 if inode == 1 else 0o100644
    return struct.pack("<6Q10I", inode, 1 << 20, 2048, *[0] * 6, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


ANSWERS: Final[dict[int, Callable[[int], bytes]]] = {
    INIT: lambda node: struct.pack("<IIIIHHIIHHI7I", 7, 31, 65536, 0, 16, 12, 65536, 1, 32, 0, *[0] * 8),
    LOOKUP: lambda node: struct.pack("<QQQQII", 2, 0, 100, 100, 0, 0) + attributes(2),
    GETATTR: lambda node: struct.pack("<QII", 100, 0, 0) + attributes(node),
    OPEN: lambda node: struct.pack("<QII", 1, 0, 0),
    FLUSH: lambda node: b"",
}


def serve(device: int) -> None:
    """A file system with one file, whose pages never come."""
    while True:
        _, operation, unique, node = struct.unpack("<IIQQ", os.read(device, 200_000)[:24])
        if operation in (READ, FORGET):
            continue
        answer = ANSWERS.get(operation)
        body = answer(node) if answer else b""
        os.write(device, struct.pack("<IiQ", 16 + len(body), 0 if answer else UNIMPLEMENTED, unique) + body)


def lock_up(place: str) -> None:
    """Never returns."""
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    at = libc.mmap(None, 1 << 20, 1, 2, os.open(f"{place}/file", os.O_RDONLY), 0)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    threading.Thread(target=os.pread, args=(memory, 10, at), daemon=True).start()
    time.sleep(1)  # nobody can see when it has begun to wait
    print("ready", flush=True)
    libc.mmap(None, 4096, 3, 0x22, -1, 0)


def main() -> None:
    signal.alarm(120)  # then it answers that it has ended: whoever lists processes hangs as long as this one does not
    place, device = sys.argv[1], os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    if libc.mount(b"unreadable", place.encode(), b"fuse", 6, options):
        raise OSError(ctypes.get_errno(), "mount")
    if os.fork() == 0:
        os.close(device)
        lock_up(place)
    serve(device)


if __name__ == "__main__":
    main()
