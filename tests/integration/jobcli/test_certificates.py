"""The real ``jobcli`` whose certificate is not good any more: one sentence, 125, and no other try."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from tests.support.daemon import running_daemon
from tests.support.jobcli import NO_JOB, Jobcli, environment_for, last_words, read_until
from tests.support.live_pki import LivePki
from tests.support.patience import patient

WHY = "your certificate, or a CA's above it, was revoked: get another"


@pytest.fixture
async def server(ours: LivePki, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a daemon that reads the CA's list."""
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as address:
        yield address


@pytest.fixture
async def alice(ours: LivePki, server: str) -> AsyncIterator[JobClient]:
    """Somebody whose certificate stays good."""
    with trio.fail_after(patient(30)):
        async with JobClient.connect(server, **ours.credentials("alice")) as client:
            yield client


@pytest.fixture
def mallory(ours: LivePki, tmp_path: Path, server: str) -> Jobcli:
    """Somebody whose does not."""
    ours.client("mallory")
    return Jobcli(environment_for(ours, tmp_path, server, "mallory"))


@pytest.mark.parametrize("verb", ["stream", "attach", "run"])
async def test_a_command_that_lasts_is_ended(ours: LivePki, alice: JobClient, mallory: Jobcli, verb: str) -> None:
    """What it has shown stays shown; its job goes on."""
    script = "echo here; read line; exec sleep 1000"
    if verb == "run":
        arguments = ["run", "-i", "--", "sh", "-c", script]
    else:
        job = await alice.start(["sh", "-c", script], attachable=True)
        arguments = [verb, job.id, "--from", "0", "--retry-for", "1000"]
    async with mallory.running(*arguments) as process:
        await read_until(process.stdout, b"here\n")
        ours.revoke("mallory")
        code, out, error = await last_words(process)
    assert (code, out) == (125, b"")
    assert error.splitlines()[-1] == f"jobcli: {WHY}"
    [running] = [job async for job in alice.list(states=[JobState.RUNNING])]
    await alice.stop(running.id, grace=0.1)


@pytest.mark.parametrize("arguments", [["list"], ["start", "--", "true"], ["stream", NO_JOB]], ids=lambda a: a[0])
async def test_a_command_that_begins_is_refused(
    ours: LivePki, alice: JobClient, mallory: Jobcli, arguments: list[str]
) -> None:
    """At once, however long it may try to reach a server."""
    ours.revoke("mallory")
    with trio.fail_after(patient(20)):
        while (await mallory(*arguments)).error != f"jobcli: {WHY}\n":
            await trio.sleep(0.1)
        assert await mallory.fails(arguments[0], "--retry-for", "1000", *arguments[1:]) == WHY
