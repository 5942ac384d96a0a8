"""Secrets reach the job's environment, and nothing else: no answer, no log, and no file for longer than need be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import AlreadyExistsError, InvalidArgumentError
from api.messages import JobState
from tests.integration.conftest import Connect
from tests.support.accounts import said
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobcli import Jobcli, environment_for
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(40)
SECRET = "correct horse battery staple"
LENGTH = 'echo "${#TOKEN}"'


@asynccontextmanager
async def running(pki: TestPki, directory: Path, *flags: str) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd, and alice, who is a writer."""
    with jobd_program(pki, directory / "state", *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


def files_with(text: str, directory: Path) -> list[str]:
    """The names of the files in which this stands."""
    return [path.name for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_a_secret_is_in_the_environment_and_in_no_answer(pki: TestPki, tmp_path: Path) -> None:
    """Of no RPC and no verb: the name is shown, the value is not. Neither is it in the log."""
    async with running(pki, tmp_path) as (jobd, client):
        job = await client.start(
            ["sh", "-c", f"{LENGTH}; exec sleep 1000"], secrets={"TOKEN": SECRET}, env={"PLAIN": "p"}
        )
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == f"{len(SECRET)}\n".encode()
        [worker] = (await client.workers()).workers
        listed = [each async for each in client.list()]
        stopped = await client.stop(job.id)
        for each in (job, await client.query(job.id), *worker.jobs, *listed, stopped, *await client.wait(job.id)):
            assert each.spec.secret_env == {"TOKEN": ""}
            assert each.spec.env == {"PLAIN": "p"}
        jobcli = Jobcli(environment_for(pki, tmp_path, jobd.server))
        for verb in (["query", job.id], ["query", "--json", job.id], ["list", "--json"], ["workers", "--json"]):
            assert SECRET not in await jobcli.ok(*verb)
        assert "TOKEN" in await jobcli.ok("query", job.id)
    assert SECRET not in jobd.log.read_text()


async def test_a_job_that_waits_has_its_secrets_after_a_restart(pki: TestPki, tmp_path: Path) -> None:
    """They are in the store until the process is there, and not longer."""
    async with running(pki, tmp_path, "--slots", "1") as (jobd, client):
        first = await client.start(["sleep", "1000"])
        waiting = await client.start(["sh", "-c", LENGTH], secrets={"TOKEN": SECRET}, request_id="r-1")
        ended = await client.start(["true"], secrets={"TOKEN": f"{SECRET} too"})
        assert waiting.state == ended.state == JobState.PENDING
        await client.stop(ended.id)
        jobd.kill_server()
        await client.stop(first.id, grace=0)
        async with client.stream(waiting.id) as output:
            assert [chunk.data async for chunk in output] == [f"{len(SECRET)}\n".encode()]
        again = await client.start(["sh", "-c", LENGTH], secrets={"TOKEN": SECRET}, request_id="r-1")
        assert again.id == waiting.id
        jobd.kill_server()
        again = await client.start(["sh", "-c", LENGTH], secrets={"TOKEN": SECRET}, request_id="r-1")
        assert again.id == waiting.id
    assert files_with(waiting.id, tmp_path / "state")
    assert not files_with(SECRET, tmp_path / "state")


async def test_other_secrets_are_another_request(connect: Connect) -> None:
    """Though they are not kept; and what somebody else's were is not to be found out."""
    async with connect() as client:
        job = await client.start(["true"], secrets={"A": "1", "B": "2"}, request_id="mine")
        assert (await client.start(["true"], secrets={"B": "2", "A": "1"}, request_id="mine")).id == job.id
        for others in ({"A": "1", "B": "3"}, {"A": "2", "B": "1"}, {"A": "1"}, {}):
            with pytest.raises(AlreadyExistsError, match="with a different secret_env"):
                await client.start(["true"], secrets=others, request_id="mine")
    async with connect("both") as other:
        for value in "23":
            with pytest.raises(AlreadyExistsError, match="with a different principal;"):
                await other.start(["true"], secrets={"A": "1", "B": value}, request_id="mine")


async def test_a_secret_that_cannot_be_a_variable_is_refused_by_name(connect: Connect) -> None:
    """And its value is not in the message."""
    async with connect() as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.start(["true"], secrets={"A": f"{SECRET}\0", "": SECRET, "E": SECRET}, env={"E": "1"})
        assert [each.field for each in caught.value.violations] == [
            "spec.secret_env['A']",
            "spec.secret_env",
            "spec.secret_env['E']",
        ]
        assert SECRET not in caught.value.message


async def test_a_secret_wins_over_the_base(connect: Connect) -> None:
    """As any variable that was asked for."""
    async with connect() as client:
        _, text = await said(client, "echo $LANG", secrets={"LANG": "C"})
        assert text == "C\n"
