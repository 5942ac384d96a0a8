"""What somebody could try who has taken over a server without privileges: a program that a launcher has as its server.

It says what is allowed, gives up its privileges, and then does what it was told to, as that user.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from jobd.launcher import protocol

SERVER, JOBS = 1, 65534


class Hostile:
    """It has the server's socket."""

    def __init__(self, room: str) -> None:
        self.sock = socket.socket(fileno=int(os.environ[protocol.SOCKET_ENVIRONMENT]))
        self.heard: list[dict[str, Any]] = []
        self.until("known")
        bounds = {"server": SERVER, "users": {JOBS: [JOBS]}, "rooms": [room], "sandbox": "/usr/bin/bwrap"}
        protocol.send(self.sock, {"op": "allow", **bounds, "gains": False, "new_privileges": False})
        os.setgroups([SERVER])
        os.setresgid(SERVER, SERVER, SERVER)
        os.setresuid(SERVER, SERVER, SERVER)

    def until(self, op: str) -> None:
        while True:
            assert select.select([self.sock], [], [], 20)[0], f"no {op}: {self.heard}"
            heard = protocol.receive(self.sock)
            assert heard is not None
            protocol.close_all(heard[1])
            self.heard.append(heard[0])
            if heard[0]["op"] == op:
                return

    def say(self, message: dict[str, Any], *fds: int) -> None:
        protocol.send(self.sock, message, list(fds))

    def launch(self, id: str, *given: int, **changes: Any) -> None:
        """A job that would leave a mark; with whatever is different from what may be."""
        spec = {
            "argv": ["sh", "-c", "true"],
            "env": {"PATH": "/usr/bin:/bin"},
            "cwd": "/",
            "enter": [],
            "limits": [],
            "nice": 0,
            "umask": 0o22,
            "identity": [JOBS, JOBS, [JOBS]],
            "no_new_privileges": True,
        }
        memfd = protocol.as_memfd({**spec, **changes})
        self.say({"op": "launch", "id": id}, memfd, *given)
        os.close(memfd)

    def do(self, step: dict[str, Any]) -> None:
        """One of what the test asks for."""
        match step.pop("do"):
            case "launch":
                given = [os.open(step.pop("given"), os.O_RDONLY)] if "given" in step else []
                self.launch(step.pop("id", "job"), *given, **step)
            case "say":
                fds = [os.open(path, os.O_RDONLY) for path in step.pop("with", [])]
                self.say(step, *fds)
                protocol.close_all(fds)
            case "fork":
                for left in (False, True):
                    if (pid := os.fork()) == 0:
                        if left:
                            os.setsid()
                        time.sleep(1000)
                    self.heard.append({"op": "forked", "pid": pid})
            case "until":
                self.until(step["op"])
            case "launch from a pipe":
                reading, _ = os.pipe()
                self.say({"op": "launch", "id": "job"}, reading)
            case "packet":
                for _ in range(100):
                    socket.send_fds(self.sock, [step["text"].encode() * step.get("times", 1)], [0, 0, 0])


def main(room: str, out: str, *steps: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    hostile = Hostile(room)
    for step in steps:
        hostile.do(json.loads(step))
    hostile.say({"op": "signal_pids", "number": 7, "signal": 0, "pids": []})
    hostile.until("signalled")  # the launcher is there, and has heard all of it
    hostile.say({"op": "ready"})
    Path(out).write_text("".join(f"{json.dumps(each)}\n" for each in hostile.heard))
    signal.sigwait([signal.SIGTERM])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
