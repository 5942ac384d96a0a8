"""Accounts that tests run jobs as: those that every machine has. None is made."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from api.client import JobClient
from api.messages import Job
from tests.support.daemon import ROOT
from tests.support.pki import TestPki

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: jobs run as other users")
needs_not_root = pytest.mark.skipif(os.geteuid() == 0, reason="needs not to be root, who can become anybody")


@contextmanager
def room() -> Iterator[Path]:
    """A directory that all can enter, and its owner alone can write."""
    with tempfile.TemporaryDirectory(prefix="jobd-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


NOBODY = pwd.getpwnam("nobody")
DAEMON = pwd.getpwnam("daemon")
OWN = pwd.getpwuid(os.geteuid())


def group_name(gid: int) -> str:
    """The name of a group."""
    return grp.getgrgid(gid).gr_name


def stranger_to(user: str) -> str:
    """A group that the user is not in."""
    gids = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    return next(each.gr_name for each in grp.getgrall() if each.gr_gid not in gids)


def configuration(directory: Path, text: str) -> str:
    """The path of a configuration file with this text."""
    directory.mkdir(exist_ok=True)
    file = directory / "jobd.toml"
    file.write_text(text)
    return str(file)


@dataclass(frozen=True)
class Unprivileged:
    """What it takes to run jobd as a user who is not root.

    Attributes:
        settings: arguments of :func:`tests.support.daemon.jobd_program`.
        directory: of that user's, for the state.
        pki: certificates that the user can read.
    """

    settings: dict[str, Any]
    directory: Path
    pki: TestPki


@contextmanager
def unprivileged(pki: TestPki, directory: Path) -> Iterator[Unprivileged]:
    """Whoever runs the tests, if that is not root; else nobody, with an interpreter that nobody can run."""
    if os.geteuid() != 0:
        yield Unprivileged({}, directory, pki)
        return
    whom = {"user": "nobody", "group": NOBODY.pw_gid, "extra_groups": []}
    path = [ROOT, Path(trio.__file__).parents[1]]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    for python in (sys.executable, "/usr/bin/python3.11", "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            check = [python, "-c", "import jobd.server"]
            if not subprocess.run(check, env=environment, cwd="/", capture_output=True, **whom).returncode:
                break
    else:
        pytest.skip("there is no interpreter that nobody can run, with jobd and its libraries")
    room = Path(tempfile.mkdtemp(prefix="jobd-test-"))
    try:
        shutil.copytree(pki.directory, room / "pki")
        for each in (room, *room.rglob("*")):
            shutil.chown(each, NOBODY.pw_uid, NOBODY.pw_gid)
        yield Unprivileged({"path": path, "python": python, "identity": whom}, room, TestPki(room / "pki"))
    finally:
        shutil.rmtree(room)


async def said(client: JobClient, script: str, **fields: object) -> tuple[Job, str]:
    """What a shell script wrote to stdout, and the job, when it has ended."""
    job = await client.start(["sh", "-c", script], **fields)  # type: ignore[arg-type] # the caller's are start's
    collected = b""
    async with client.stream(job.id) as output:
        async for chunk in output:
            collected += chunk.data
    return await client.query(job.id), collected.decode()
