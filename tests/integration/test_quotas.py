"""Quotas of principals over the wire, and what clients make of them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from api.address import parse_address
from api.client import JobClient
from api.errors import ResourceExhaustedError, UnavailableError
from api.messages import JobState, QueryRequest
from api.methods import LIST_WORKERS, QUERY
from api.rpc.channel import open_channel
from jobd.quota import Quota, QuotaPolicy
from tests.support.daemon import jobd_program, running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki

FEW = QuotaPolicy(Quota(calls_per_second=0.1))
"""One call, and the next one after ten seconds."""


async def test_a_refusal_says_when_to_try_again_and_the_audit_has_it(
    pki: TestPki, tmp_path: Path, log_guard: list[EventDict]
) -> None:
    """The same for a second connection of the principal; another principal does not notice."""
    async with running_daemon(pki, tmp_path / "state", quota=FEW) as server:
        host, port = parse_address(server)
        with trio.fail_after(patient(20)):
            async with open_channel(host, port, pki.context("rita")) as channel:
                await channel.unary(LIST_WORKERS, LIST_WORKERS.request())
            async with open_channel(host, port, pki.context("rita")) as channel:
                with pytest.raises(ResourceExhaustedError) as caught:
                    await channel.unary(QUERY, QueryRequest("x"))
            assert caught.value.reason == "TOO_MANY_CALLS"
            assert 0 < (caught.value.retry_after or 0) <= 10
            async with open_channel(host, port, pki.context("alice")) as channel:
                await channel.unary(LIST_WORKERS, LIST_WORKERS.request())
    lines = [(entry["principal"], entry["status"]) for entry in log_guard if entry["event"] == "call"]
    assert lines == [("rita", "OK"), ("rita", "RESOURCE_EXHAUSTED"), ("alice", "OK")]


async def test_our_client_waits_its_turn(pki: TestPki, tmp_path: Path) -> None:
    """Calls, the begin of a stream, and that of an attachment: each is made again when the server would take it."""
    quota = QuotaPolicy(Quota(calls_per_second=2))
    async with running_daemon(pki, tmp_path / "state", quota=quota) as server:
        with trio.fail_after(patient(20)):
            async with JobClient.connect(server, **pki.credentials("alice")) as client:
                job = await client.start(["sh", "-c", "read line; echo $line"], attachable=True)
                for _ in range(3):
                    await client.query(job.id)
                async with client.attach(job.id) as attachment:
                    await attachment.send(b"hello\n")
                    assert b"".join([chunk.data async for chunk in attachment]) == b"hello\n"
                for _ in range(3):
                    async with client.stream(job.id) as output:
                        assert b"".join([chunk.data async for chunk in output]) == b"hello\n"


async def test_without_time_to_wait_the_refusal_is_told(pki: TestPki, tmp_path: Path) -> None:
    """For a stream too: it was not cut, but refused."""
    async with running_daemon(pki, tmp_path / "state", quota=FEW) as server:
        with trio.fail_after(patient(20)):
            async with JobClient.connect(server, **pki.credentials("alice"), retry_for=0) as client:
                await client.workers()
                with pytest.raises(ResourceExhaustedError):
                    await client.workers()
                with pytest.raises(ResourceExhaustedError):
                    async with client.stream("00000000-0000-4000-8000-000000000000") as output:
                        await anext(output)


async def test_jobs_of_a_principal_count_after_a_kill_of_the_server(pki: TestPki, tmp_path: Path) -> None:
    """From the file: alice has one job, before and after; when it has ended she may have another."""
    config = tmp_path / "jobd.toml"
    config.write_text("[principals.alice.quota]\njobs = 1\n[roles.reader.quota]\ncalls-per-second = 0.01\n")
    with jobd_program(pki, tmp_path / "state", "--config", str(config)) as jobd, trio.fail_after(patient(30)):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            job = await client.start(["sleep", "1000"])
            for _ in range(2):
                with pytest.raises(ResourceExhaustedError, match="at most 1 jobs of alice may run or wait") as caught:
                    await client.start(["true"])
                assert caught.value.reason == "TOO_MANY_JOBS"
                await trio.to_thread.run_sync(jobd.kill_server)
                assert (await client.query(job.id)).state == JobState.RUNNING
            async with JobClient.connect(jobd.server, **pki.credentials("both"), retry_for=0) as both:
                await both.start(["true"])
                with pytest.raises(ResourceExhaustedError, match=r"both may make 0\.01 calls a second"):
                    await both.workers()
            await client.stop(job.id)
            await client.start(["true"])


async def test_a_principal_has_so_many_connections_and_others_have_theirs(
    pki: TestPki, tmp_path: Path, log_guard: list[EventDict]
) -> None:
    """One more is ended at once, and its call was not taken; when another has gone it gets in, by itself."""
    quota = QuotaPolicy(Quota(connections=2))
    async with running_daemon(pki, tmp_path / "state", quota=quota) as server:
        with trio.fail_after(patient(20)):
            async with JobClient.connect(server, **pki.credentials("rita")) as waits, trio.open_nursery() as nursery:
                host, port = parse_address(server)
                async with AsyncExitStack() as open_:
                    for _ in range(2):
                        channel = await open_.enter_async_context(open_channel(host, port, pki.context("rita")))
                        await channel.unary(LIST_WORKERS, LIST_WORKERS.request())
                    async with open_channel(host, port, pki.context("rita")) as channel:
                        with pytest.raises(UnavailableError, match=r"has too much of us|lost"):
                            await channel.unary(LIST_WORKERS, LIST_WORKERS.request())
                    async with open_channel(host, port, pki.context("alice")) as channel:
                        await channel.unary(LIST_WORKERS, LIST_WORKERS.request())
                    nursery.start_soon(waits.workers)
                    while sum(entry["event"] == "connection refused" for entry in log_guard) < 2:
                        await trio.sleep(0.001)
    assert {entry["principal"] for entry in log_guard if entry["event"] == "connection refused"} == {"rita"}
