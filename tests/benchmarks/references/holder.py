"""The process that forks the jobs of :mod:`tests.benchmarks.references.held`, says that they run, hands over their
pipes, and reaps them: as jobd's launcher does, and nothing else of what that does. Like it, it loads little: a fork
copies the tables of all that is there.

``python -m tests.benchmarks.references.holder FD``.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Final

from jobd.launcher import protocol, signals
from jobd.launcher.children import EXECUTED, Child, spawn
from jobd.launcher.program import Program

ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin"}
MARK: Final = 10
"""The limit that is a job's mark."""


class Holder:
    """``run`` is its life."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._selector = selectors.DefaultSelector()
        self._woken, self._waking = signals.read_from_now_on([signal.SIGCHLD])
        self._children: dict[int, tuple[str, Child]] = {}

    def run(self) -> None:
        """Fork and reap until the other end is gone."""
        self._selector.register(self._sock, selectors.EVENT_READ, self._wanted)
        self._selector.register(self._woken, selectors.EVENT_READ, self._ended)
        while True:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:
                    call: Callable[[], None] = key.data
                    call()

    def _wanted(self) -> None:
        heard = protocol.receive(self._sock)
        if heard is None:
            sys.exit()
        order = heard[0]
        limits = {MARK: (order["mark"], order["mark"])}
        child = spawn(Program(order["argv"], ENVIRONMENT, "/", order["enter"], limits, 0, 0o22, None))
        self._children[child.pid] = order["id"], child
        self._selector.register(child.report, selectors.EVENT_READ, partial(self._reported, order["id"], child))

    def _reported(self, job_id: str, child: Child) -> None:
        if child.hear() is not EXECUTED:
            sys.exit("a held job could not be executed")
        self._selector.unregister(child.report)
        os.close(child.report)
        protocol.send(self._sock, {"id": job_id, "pid": child.pid}, [child.out, child.err])
        child.close()

    def _ended(self) -> None:
        self._woken.recv(4096)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            job_id, child = self._children.pop(pid)
            key = self._selector.get_map().get(child.report)
            if key and key.data.args == (job_id, child):
                self._reported(job_id, child)
            protocol.send(self._sock, {"id": job_id, "status": status})


if __name__ == "__main__":
    Holder(socket.socket(fileno=int(sys.argv[1]))).run()
