"""Accounts that tests run jobs as: those that every machine has. None is made."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from api.client import JobClient
from api.messages import Job

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: jobs run as other users")
needs_not_root = pytest.mark.skipif(os.geteuid() == 0, reason="needs not to be root, who can become anybody")

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


async def said(client: JobClient, script: str, **fields: object) -> tuple[Job, str]:
    """What a shell script wrote to stdout, and the job, when it has ended."""
    job = await client.start(["sh", "-c", script], **fields)  # type: ignore[arg-type] # the caller's are start's
    collected = b""
    async with client.stream(job.id) as output:
        async for chunk in output:
            collected += chunk.data
    return await client.query(job.id), collected.decode()
