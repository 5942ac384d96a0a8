"""The installed programs, outside of any checkout: the main job, over TLS, with certificates that they made."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.version import VERSION
from tests.support.daemon import ROOT, children_of, command_of, holder_of, until_dead
from tests.support.installed import Installed

TRUST = ("--cert", "pki/server.crt", "--key", "pki/server.key", "--ca", "pki/ca.crt")
IMPORT_ALL = """
import importlib, pkgutil, sys
import api, jobcli, jobd, pki
for package in (api, jobcli, jobd, pki):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and module.name != "api.proto":
            print(importlib.import_module(module.name).__file__)
"""


@contextmanager
def daemon(installed: Installed, state: Path) -> Iterator[tuple[str, ...]]:
    """A jobd; gives the arguments with which jobcli comes to it."""
    if not (installed.home / "pki").exists():
        installed.run("jobpki", "init", "pki")
        installed.run("jobpki", "server", "pki", "--host", "localhost", "--host", "127.0.0.1")
        installed.run("jobpki", "client", "pki", "alice", "--role", "writer")
    with installed.jobd(*TRUST, "--listen", "127.0.0.1:0", "--state", state, "--stop-jobs") as address:
        yield ("--server", address, "--cert", "pki/alice.crt", "--key", "pki/alice.key", "--ca", "pki/ca.crt")


@pytest.mark.parametrize("program", ["jobd", "jobcli"])
def test_a_program_says_its_version(installed: Installed, program: str) -> None:
    """That of the package."""
    assert installed.run(program, "--version").stdout == f"{program} {VERSION}\n"


def test_every_module_is_there_and_none_is_a_checkout_s(installed: Installed) -> None:
    """With only what the package says that it needs."""
    files = installed.run("python", "-c", IMPORT_ALL).stdout.splitlines()
    assert len(files) > 200
    assert [file for file in files if not file.startswith(f"{installed.prefix}/lib/")] == []


def test_the_main_job(installed: Installed, tmp_path: Path) -> None:
    """A job's output and its end come back; a second one is stopped, whole."""
    with daemon(installed, tmp_path / "state") as where:
        done = installed.run("jobcli", *where, "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
        job = installed.run("jobcli", *where, "start", "--", "sleep", "1000").stdout.strip()
        assert "stopped" in installed.run("jobcli", *where, "stop", job).stdout
        listed = installed.run("jobcli", *where, "list", "--json").stdout.splitlines()
        assert {json.loads(line)["state"] for line in listed} == {"failed", "stopped"}


def test_a_killed_server_is_started_again(installed: Installed, tmp_path: Path) -> None:
    """By the launcher, from what is installed; the job goes on, and its output is whole."""
    with daemon(installed, tmp_path / "state") as where:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        job = installed.run("jobcli", *where, "start", "--", "sh", "-c", f"echo one; cat {fifo}").stdout.strip()
        [server] = [pid for pid in children_of(holder_of(tmp_path / "state")) if b"jobd.server" in command_of(pid)]
        os.kill(server, signal.SIGKILL)
        until_dead(server)
        fifo.write_text("two\n")
        assert installed.run("jobcli", *where, "stream", job).stdout == "one\ntwo\n"


def test_an_upgrade_takes_what_is_installed(installed: Installed, tmp_path: Path) -> None:
    """It could be another version by now; the job goes on."""
    with daemon(installed, tmp_path / "state") as where:
        job = installed.run("jobcli", *where, "start", "--", "sleep", "1000").stdout.strip()
        installed.run("jobd", "upgrade", "--state", tmp_path / "state")
        assert json.loads(installed.run("jobcli", *where, "query", "--json", job).stdout)["state"] == "running"


def test_the_server_knows_its_contract(installed: Installed, tmp_path: Path) -> None:
    """Reflection is answered from a file that is data of the package."""
    script = "from jobd.service.descriptors import *; print(*Descriptors(SERIALIZED.read_bytes()).symbols)"
    assert "jobworker.v1.JobWorkerService" in installed.run("python", "-c", script).stdout.split()


def test_the_contract_is_there_for_other_languages(installed: Installed) -> None:
    """The .proto files as they are in the checkout."""
    [packages] = installed.prefix.glob("lib/python*/site-packages")
    name = "api/proto/jobworker/v1/job_worker.proto"
    assert (packages / name).read_text() == (ROOT / name).read_text()
