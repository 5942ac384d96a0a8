"""Machines that die, servers that are killed, an etcd that is away."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from api.client import JobClient
from api.errors import UnavailableError
from api.messages import JobState
from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.orders import hash_of, order_of
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import Session
from jobd.pools.etcd.steps import Found, place, submit
from jobd.pools.etcd.transaction import Delete, Put, Txn
from jobd.worker.job import Job
from jobd.worker.lifecycle import State
from tests.support.etcd import Cluster, cluster, fill, that_may_be_killed
from tests.support.jobs import shell
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool import Pool, open_pool
from tests.support.pool_programs import Programs
from tests.support.refusals import stdout_of
from tests.support.shown import shown_in

NOBODY = "00000000-0000-4000-8000-000000000000"
"""An id that no broker has given."""


@pytest.fixture
def own_etcd(tmp_path: Path, etcd: Cluster) -> Iterator[Cluster]:
    """One member with a small quota, which the test stops, kills, fills and starts again."""
    (tmp_path / "etcd").mkdir()
    binary, more = next(iter(that_may_be_killed().values()), ""), ("--quota-backend-bytes", "8000000")
    with cluster(tmp_path / "etcd", binary=binary, more=more) as started:
        yield started


def gated(gate: Path, *, code: int = 0) -> list[str]:
    """A job that says that it runs, and ends when a file is there."""
    return ["sh", "-c", f"echo ready; until test -e {gate}; do sleep 0.05; done; echo done; exit {code}"]


async def test_a_server_that_is_killed_loses_nothing(pool: Pool, programs: Programs, tmp_path: Path) -> None:
    """Jobs that run go on, a stream through another broker goes on to the verdict, and ends are reported."""
    await pool.start("m1", worker=False)
    w1 = await trio.to_thread.run_sync(lambda: programs.start("w1"))
    gate = tmp_path / "gate"
    async with pool.client("m1") as client:
        job = await client.start(gated(gate, code=5))
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
            await trio.to_thread.run_sync(w1.kill_server)
            gate.touch()
            assert b"".join([chunk.data async for chunk in output]) == b"done\n"
            assert output.verdict is not None
            assert output.verdict.exit_code == 5
        [ended] = await client.wait(job.id)
        assert (ended.state, ended.exit_code, ended.worker) == (JobState.FAILED, 5, "w1")
        assert [each.exit_code for each in await client.wait((await client.start(["true"])).id)] == [0]


async def test_the_jobs_of_a_machine_that_dies(
    pool: Pool, programs: Programs, orphans: list[str], tmp_path: Path
) -> None:
    """Those that it had are unreachable, and run nowhere else; one that it had not taken does. If it was only away, but
    for longer than its session, they are what they really are. Else what it had is lost when it says so itself, or when
    an operator does; it stays so."""
    await pool.start("m1", worker=False)
    w1 = await trio.to_thread.run_sync(lambda: programs.start("w1"))
    marks = tmp_path / "marks"
    async with pool.client("m1") as client:
        script = f"echo $JOBD_JOB_ID >> {marks}; echo ready; exec sleep 1000"
        had = [await client.start(["sh", "-c", script]) for _ in range(2)]
        for job in had:
            orphans.append(job.id)
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == b"ready\n"
        ends = await client.start(gated(tmp_path / "gate", code=5))
        while (await client.query(ends.id)).state != JobState.RUNNING:
            await trio.sleep(0.05)
        server = await trio.to_thread.run_sync(w1.server_pid)
        os.kill(server, signal.SIGSTOP)
        for job in (*had, ends):
            await until_unreachable(client, job.id)
        (tmp_path / "gate").touch()
        os.kill(server, signal.SIGCONT)
        assert [each.exit_code for each in await client.wait(ends.id)] == [5]
        for job in had:
            while (await client.query(job.id)).state != JobState.RUNNING:
                await trio.sleep(0.05)
        os.kill(server, signal.SIGSTOP)
        not_taken = await client.start(["sh", "-c", f"echo $JOBD_JOB_ID >> {marks}"])
        await trio.to_thread.run_sync(programs.crash, "w1")
        for job in had:
            await until_unreachable(client, job.id)
        await pool.start("m2")
        [ended] = await client.wait(not_taken.id)
        assert (ended.exit_code, ended.worker) == (0, "m2")
        forgotten = await client.forget(had[0].id)
        assert (forgotten.state, forgotten.reason) == (JobState.LOST, "FORGOTTEN")
        await trio.to_thread.run_sync(lambda: programs.start("w1"))
        [lost] = await client.wait(had[1].id)
        assert lost.state == JobState.LOST
        assert (await client.query(had[0].id)).reason == "FORGOTTEN"
        assert sorted(marks.read_text().split()) == sorted(job.id for job in (*had, not_taken))


async def until_unreachable(client: JobClient, job: str) -> None:
    while (await client.query(job)).reason != "UNREACHABLE":
        await trio.sleep(0.05)


async def test_while_etcd_is_away(own_etcd: Cluster, pki: TestPki, tmp_path: Path) -> None:
    """Jobs and streams go on; Start is refused. Ends are reported when it is back, stopped or killed (if it is one that
    has then what it had before), or has room again, if it was full."""
    [member] = own_etcd.members

    def full() -> None:
        trio.run(fill_it, own_etcd)

    def with_room() -> None:
        trio.run(make_room, own_etcd)

    with trio.fail_after(patient(60)):
        async with open_pool(own_etcd, pki, tmp_path) as pool:
            await pool.start("m1")
            ways = [(member.stop, member.go_on, "POOL_UNAVAILABLE"), (full, with_room, "POOL_FULL")]
            if member.binary in that_may_be_killed().values():
                ways.append((member.kill, member.start, "POOL_UNAVAILABLE"))
            for away, back, reason in ways:
                gate = tmp_path / away.__name__
                async with pool.client() as client, no_retries(pool) as once:
                    job = await client.start(gated(gate))
                    async with client.stream(job.id) as output:
                        assert (await anext(output)).data == b"ready\n"
                        await trio.to_thread.run_sync(away)
                        try:
                            with pytest.raises(UnavailableError) as refused:
                                await once.start(["true"])
                            assert refused.value.reason == reason
                            assert (await client.query(job.id)).state == JobState.RUNNING
                            gate.touch()
                            assert b"".join([chunk.data async for chunk in output]) == b"done\n"
                            assert output.verdict is not None
                            assert output.verdict.exit_code == 0
                        finally:
                            await trio.to_thread.run_sync(back)
                    [ended] = await client.wait(job.id)
                    assert ended.state == JobState.SUCCEEDED


FILLING = b"of somebody else/"


async def fill_it(etcd: Cluster) -> None:
    async with open_client(etcd.etcd) as client:
        await fill(client, FILLING)


async def make_room(etcd: Cluster) -> None:
    """With the commands of the manual; who else has filled it has gone."""
    async with open_client(etcd.etcd) as client:
        while (page := await client.page(FILLING)).found:
            for each in page.found:
                await client.delete(each.key)
    program, *options = etcd.ctl()
    commands = "\n".join(["set -e", f"E={shlex.quote(shlex.join(options))}", *shown_in("pool.md", "When etcd is full")])
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ETCDCTL_API": "3"}
    done = await trio.run_process(["sh", "-c", commands], env=env, capture_stdout=True)
    assert b"alarm:NOSPACE" in done.stdout


async def test_an_etcd_that_comes_after_jobd(
    own_etcd: Cluster, pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine does not wait for it for long, says UNAVAILABLE, and is in the pool once it is there."""
    monkeypatch.setattr("jobd.pooled.FIRST", 0.1)
    [member] = own_etcd.members
    with trio.fail_after(patient(60)):
        async with open_pool(own_etcd, pki, tmp_path) as pool:
            await trio.to_thread.run_sync(member.kill)
            try:
                await pool.start("m1")
                async with no_retries(pool) as once:
                    with pytest.raises(UnavailableError):
                        await once.start(["true"])
            finally:
                await trio.to_thread.run_sync(member.start)
            async with pool.client() as client:
                assert [job.exit_code for job in await client.wait((await client.start(["true"])).id)] == [0]


def no_retries(pool: Pool):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(pool.machines["m1"], **pool.pki.credentials("alice"), retry_for=0)


async def test_what_a_broker_that_died_had_recorded_is_placed_by_another(pool: Pool) -> None:
    """Between submit and place there is nothing that only the first one knows."""
    await pool.start("m1")
    keys = Keys(pool.prefix)
    job = Job(NOBODY, shell("exit 4"), State.PENDING, time.time_ns(), started_by="alice")
    order, private = order_of(keys, job, Seal(), roles=["writer"])
    async with open_client(pool.etcd.etcd) as etcd:
        assert (await etcd.txn(submit(keys, job.id, order, hash_of(job.spec), private))).held
    async with pool.client() as client:
        assert [each.exit_code for each in await client.wait(job.id)] == [4]


async def test_a_job_for_which_there_is_no_slot_after_all_is_given_back(pool: Pool) -> None:
    """Two brokers can give away the last slot twice; the worker does not keep what it cannot start."""
    await pool.start("m1", slots=1)
    keys = Keys(pool.prefix)
    async with pool.client() as client, open_client(pool.etcd.etcd) as etcd:
        first = await client.start(["sleep", "1000"])
        while (await client.query(first.id)).state != JobState.RUNNING:
            pass
        second = await client.start(["true"])
        up = await etcd.get(keys.session("m1"))
        state, queued = await etcd.get(keys.state(second.id)), await etcd.get(keys.queued(second.id))
        assert up
        assert state
        assert queued
        session = decode(Session, up.key, up.value)
        assert (await etcd.txn(place(keys, Found.of(keys, state), queued, up, session.uid))).held
        while await etcd.get(keys.queued(second.id)) is None:
            pass
        assert (await client.query(second.id)).state == JobState.PENDING
        await client.stop(first.id, grace=0)
        assert [each.exit_code for each in await client.wait(second.id)] == [0]


async def test_a_pool_that_is_frozen_says_so_and_goes_on_at_once_when_it_is_thawed(pool: Pool) -> None:
    """An operator's key is followed: a job that waits says that it is why, and runs as soon as the key is gone."""
    await pool.start("m1")
    keys = Keys(pool.prefix)
    async with pool.client() as client, open_client(pool.etcd.etcd) as etcd:
        await etcd.txn(Txn((), (Put(keys.frozen, b"{}"),)))
        job = await client.start(["true"])
        while "frozen" not in (await client.query(job.id)).message:
            pass  # the key is about to be heard of
        await trio.sleep(1)
        assert (await client.query(job.id)).state == JobState.PENDING
        await etcd.txn(Txn((), (Delete(keys.frozen),)))
        with trio.fail_after(patient(10)):  # what is not news is looked at once a minute
            assert [each.exit_code for each in await client.wait(job.id)] == [0]


async def test_a_job_that_is_stopped_before_it_was_taken_has_no_output(pool: Pool) -> None:
    """Nobody is asked for it who does not know it: its stream is its verdict."""
    await pool.start("m1", slots=1)
    keys = Keys(pool.prefix)
    async with pool.client() as client, open_client(pool.etcd.etcd) as etcd:
        job = await client.start(["true"], worker_labels={"gpu": "none"})
        up = await etcd.get(keys.session("m1"))
        state, queued = await etcd.get(keys.state(job.id)), await etcd.get(keys.queued(job.id))
        assert up
        assert state
        assert queued
        # Given to an identity that m1 has not, so it does not take it.
        assert (await etcd.txn(place(keys, Found.of(keys, state), queued, up, "somebody"))).held
        assert (await client.stop(job.id)).state == JobState.STOPPED
        assert await stdout_of(client, job.id) == b""


async def test_what_is_no_record_is_named_and_left_alone(pool: Pool, errors_expected: list[EventDict]) -> None:
    """Of a key or a value that somebody else has written, nothing else is kept from its work."""
    keys = Keys(pool.prefix)
    async with open_client(pool.etcd.etcd) as etcd:
        await pool.start("m1")
        wrong = [keys.sessions + b"../x", keys.session("m2"), keys.queue + b"x", keys.assignments("m1") + b"x"]
        wrong += [keys.state(NOBODY)]
        for key in wrong:
            await etcd.txn(Txn((), (Put(key, b"nonsense"),)))
        async with pool.client() as client:
            assert [job.exit_code for job in await client.wait((await client.start(["true"])).id)] == [0]
            assert [worker.name for worker in (await client.workers()).workers] == ["m1"]
