"""A ``jobd`` whose server is killed at the points that are armed.

Front and launcher are the real ones. The server is the real one too, only that it is forked from the launcher, in
which all that it imports is there already, instead of executed: a hundred starts would else take a minute. This module
is the launcher's program: ``python -m tests.faults.killed_jobd DIRECTORY [FD]``.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobd import server
from jobd.launcher import launcher, served
from jobd.launcher.console import say
from jobd.launcher.protocol import SOCKET_ENVIRONMENT
from jobd.output import log
from jobd.output.writer import LogWriter
from jobd.service.translate import job_message
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from tests.faults.failpoints import Points
from tests.support.daemon import ROOT, descriptors_of, holder_of, until_dead
from tests.support.patience import patient
from tests.support.pki import TestPki

SEGMENT: Final = 16 * 1024
"""Bytes of a segment of the log: few, so that small outputs have several."""
PAUSE: Final = 0.05
"""Seconds, at most, before a server is started again: it is killed more often here than anybody has patience for."""


PATIENCE: Final = patient(30)
"""Seconds until one has to be ready, or to have ended."""
FRONT: Final = """
import os
import sys
from jobd.launcher.front import Front
from jobd.launcher.systemd import Systemd
launcher = [sys.executable, "-m", "tests.faults.killed_jobd", sys.argv[1]]
sys.exit(Front(["server", *sys.argv[2:]], launcher, Systemd(os.environ)).run())
"""

# ---- the program


def main(directory: str, fd: str | None = None) -> int:
    """Run it; returns the exit code."""
    job_message(Job("", JobSpec(("true",)), State.PENDING, 1))  # the first one takes long
    gc.freeze()  # what is not looked at is not copied
    served.LONGEST_PAUSE = PAUSE  # type: ignore[misc] # not final here
    os.posix_spawn = functools.partial(_start, Points(Path(directory)), os.posix_spawn)
    return launcher.Launcher(socket.socket(fileno=int(fd)) if fd else None, say).run()


def _start(points: Points, spawn: Any, path: str, argv: list[str], env: Mapping[str, str], **options: Any) -> int:
    """In place of posix_spawn(3): fork for the server, and as ever for anything else."""
    if path != "server":
        return int(spawn(path, argv, env, **options))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _serve(points, argv[1:], env)
        except BaseException:  # noqa: BLE001 # whatever it was, this process is no second launcher
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _serve(points: Points, flags: list[str], env: Mapping[str, str]) -> int:
    """Be the server: nothing of the launcher is left in this process but the socket to it."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    link = int(env[SOCKET_ENVIRONMENT])
    os.closerange(3, link)
    os.closerange(link + 1, 2**16)
    os.environ.clear()
    os.environ.update(env)
    (points.directory / "new").write_text(str(os.getpid()))
    (points.directory / "new").rename(points.directory / "server")  # whoever reads it reads all of it
    log.LogWriter = functools.partial(LogWriter, segment_size=SEGMENT)  # type: ignore[misc,assignment] # it makes the same
    points.install()
    return server.main(flags)


# ---- for tests


@dataclass(frozen=True)
class KilledJobd:
    """One that runs.

    Attributes:
        process: the front.
        server: the address, as clients write it; empty when it did not come to that.
        state: its state directory.
    """

    process: subprocess.Popen[str]
    server: str
    state: Path
    points: Points
    log: Path

    def kill_server(self) -> None:
        """SIGKILL to the server that runs now, if none has just been killed."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server_pid(), signal.SIGKILL)

    def server_pid(self) -> int:
        return int((self.points.directory / "server").read_text())

    def descriptors(self) -> int:
        """How many the launcher has."""
        return descriptors_of(holder_of(self.state))

    def crash(self) -> None:
        """SIGKILL to the launcher and the server."""
        pids = [holder_of(self.state), self.server_pid()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until_dead(*pids)


@contextmanager
def killed_jobd(pki: TestPki, directory: Path, *flags: str) -> Iterator[KilledJobd]:
    """Run one below a directory; SIGTERM at the end of the block."""
    state = directory / "state"
    arguments = ["--listen", "127.0.0.1:0", "--state", str(state), "--grace", "2", "--drain", "1", "--shutdown", "0.2"]
    arguments += ["--stop-jobs"]
    arguments += [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    points = Points(directory / "points")
    with (
        (directory / "log").open("a") as errors,
        subprocess.Popen(
            [sys.executable, "-c", FRONT, str(points.directory), *arguments, *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], PATIENCE)[0], "it says nothing, and does not end"
            ready = process.stdout.readline()
            address = ready.rpartition(" ")[2].strip().replace("127.0.0.1", "localhost")
            yield KilledJobd(process, address, state, points, directory / "log")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=patient(20))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
