"""jobd as a service of systemd's: installed as docs/operations.md says, and what systemd has to say of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from api.address import parse_address
from api.messages import Job
from tests.machine.image import INSTALLED
from tests.support.daemon import ROOT, holder_of, is_alive
from tests.support.patience import patient
from tests.support.pki import TestPki

UNIT: Final = ROOT / "docs" / "systemd" / "jobd.service"
BEFORE_254: Final = UNIT.with_name("before-254.conf")
SUBGROUPS: Final = 254
"""The first version of systemd that starts a service in a group below its own."""
UNWATCHED: Final = "systemd before 254 watches no server"
NAME: Final = "jobd.service"
SYSTEM: Final = Path("/etc/systemd/system")
SETTINGS: Final = Path("/etc/jobd")
STATE: Final = Path("/var/lib/jobd")
ADDRESS: Final = "127.0.0.1:50051"
SECONDS: Final = patient(15)
"""A machine without virtualization is slow."""
CONFIGURATION: Final = f"""\
cert = "{SETTINGS}/server.crt"
key = "{SETTINGS}/server.key"
ca = "{SETTINGS}/ca.crt"
listen = "{ADDRESS}"
state = "{STATE}"
grace = 2
drain = 1
shutdown = 0.5
"""


def systemctl(*arguments: str, check: bool = True) -> str:
    """What systemctl says."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{arguments}: {done.stderr}{_last_lines()}"
    return done.stdout.strip()


def journal() -> str:
    """What was said in the machine since it was started. (In a scope, it is not the service that says it.)"""
    command = ["journalctl", "--no-pager", "--boot", "--output=cat"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _last_lines() -> str:
    return "\n".join(journal().splitlines()[-60:])


def version() -> int:
    """Of systemd."""
    return int(systemctl("--version").split()[1])


def shown(name: str) -> str:
    """A property of the unit."""
    return systemctl("show", "--value", f"--property={name}", NAME)


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait for something that comes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: {_last_lines()}"
        time.sleep(0.05)


@contextmanager
def service(pki: TestPki, settings: str = "", owner: str = "root") -> Iterator[None]:
    """The service, started. At the end of the block nothing of it is left, jobs included.

    Args:
        settings: more lines for the configuration file.
        owner: whom the service runs as, and whose its files are.
    """
    SETTINGS.mkdir()
    try:
        for path in pki.server().values():
            shutil.copy(path, SETTINGS)
        (SETTINGS / "jobd.toml").write_text(CONFIGURATION + settings)
        if owner != "root":
            STATE.mkdir(mode=0o700)
            for each in (STATE, SETTINGS, *SETTINGS.iterdir()):
                shutil.chown(each, owner, owner)
        shutil.copy(UNIT, SYSTEM / NAME)
        (SYSTEM / f"{NAME}.d").mkdir()
        if version() < SUBGROUPS:
            (SYSTEM / f"{NAME}.d" / "before-254.conf").write_text(_before_254(owner))
        if owner != "root":
            (SYSTEM / f"{NAME}.d" / "user.conf").write_text(f"[Service]\nUser={owner}\n")
        systemctl("daemon-reload")
        systemctl("start", NAME)
        until(serves, "it does not serve")
        yield
    finally:
        end()
        for path in (SETTINGS, STATE, SYSTEM / f"{NAME}.d"):
            shutil.rmtree(path, ignore_errors=True)
        (SYSTEM / NAME).unlink(missing_ok=True)
        systemctl("daemon-reload")


def _before_254(owner: str) -> str:
    """As the file says: with its line for ordinary users in place of the other."""
    text = BEFORE_254.read_text()
    if owner == "root":
        return text
    lines = text.splitlines(keepends=True)
    (for_all,) = (each for each in lines if each.startswith("ExecStart=/"))
    (for_users,) = (each for each in lines if each.startswith("# ExecStart=+/"))
    line = for_users.removeprefix("# ").replace("USER:GROUP", f"{owner}:{owner}")
    line = line.replace("=USER", f"={owner}").replace("=GROUP", f"={owner}")
    return text.replace(for_users, "").replace(for_all, line)


def serves() -> bool:
    """It can be connected to. (Between two servers too: clients try again.)"""
    try:
        socket.create_connection(parse_address(ADDRESS), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def end() -> None:
    """Stop the service, and end the launcher that it left, with its jobs."""
    launcher = holder_of(STATE) if (STATE / "lock").exists() else 0
    systemctl("stop", NAME, check=False)
    if launcher:
        for _ in range(2):  # the second wish is not patient
            with contextlib.suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGTERM)
        until(lambda: not is_alive(launcher), "its launcher does not end")
    systemctl("reset-failed", NAME, check=False)


def group_of(pid: int) -> Path:
    """The control group that a process is in."""
    return Path("/sys/fs/cgroup") / Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


def controller_file(job: Job, name: str) -> str:
    """A file of a job's control group."""
    group = group_of(job.pid)
    assert group.name == job.id
    return (group / name).read_text().strip()


def installed(program: str) -> str:
    """The path of one of the project's programs, as installed in the machine."""
    return f"{INSTALLED}/bin/{program}"
