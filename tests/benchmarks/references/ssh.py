"""OpenSSH on loopback: a server with keys of its own, and its client's command line."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Debian's sshd wants this directory, which its unit makes."""


def why_not() -> str:
    """Why it cannot be measured here; empty when it can."""
    if not (shutil.which("ssh") and sshd()):
        return "ssh and sshd are not installed"
    if not PRIVILEGE_SEPARATION.is_dir() and os.geteuid() != 0:
        return f"{PRIVILEGE_SEPARATION} is not there, and only root can make it"
    return ""


def sshd() -> str | None:
    """Where the server is; it insists on an absolute path."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def serving(scratch: Path) -> Iterator[list[str]]:
    """A server; gives the client's command, to which the remote command is to be added."""
    scratch.mkdir(mode=0o700)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(scratch / name)], check=True)
    shutil.copy(scratch / "client.pub", scratch / "authorized")
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": scratch / "host",
        "AuthorizedKeysFile": scratch / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "MaxStartups": "100",
    }
    (scratch / "config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    command = [str(sshd()), "-D", "-e", "-f", str(scratch / "config")]
    with (scratch / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            client = ["ssh", "-F", "none", "-i", str(scratch / "client"), "-p", str(port)]
            for option in (
                "StrictHostKeyChecking=no",
                "UserKnownHostsFile=/dev/null",
                "LogLevel=ERROR",
                "BatchMode=yes",
            ):
                client += ["-o", option]
            client.append(f"{getpass.getuser()}@127.0.0.1")
            _wait(client, server, scratch / "log")
            yield client
        finally:
            server.terminate()


def _wait(client: list[str], server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if not subprocess.run([*client, "true"], check=False, capture_output=True).returncode:
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not serve: {log.read_text()}")
