"""What a request gets wrong is said with a code, a reason and the field; the connection goes on."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from api import methods
from api.client import JobClient
from api.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
)
from api.messages import JobState, ListRequest
from tests.support.daemon import running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.refusals import NO_JOB, refused, stdout_of

Ask = Callable[[JobClient, str], Awaitable[object]]


async def _read(client: JobClient, job_id: str) -> bytes:
    return await stdout_of(client, job_id)


ASKS: dict[str, Ask] = {
    "query": lambda client, job_id: client.query(job_id),
    "stop": lambda client, job_id: client.stop(job_id),
    "signal": lambda client, job_id: client.signal(job_id, 15),
    "stream": _read,
    "wait": lambda client, job_id: client.wait(job_id),
}
every_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


@every_ask
@pytest.mark.parametrize("job_id", [NO_JOB, "00000000", "ffffffffffff4fff8fffffffffffffff"])
async def test_an_id_of_no_job_is_not_found(client: JobClient, ask: Ask, job_id: str) -> None:
    """A well-formed id, or prefix of one, that no job has."""
    async with refused(client, NotFoundError, "JOB_NOT_FOUND"):
        await ask(client, job_id)


@every_ask
@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "abc",
        "000",
        "not-a-uuid",
        "0000000g",
        f"{NO_JOB}0",
        "0000000-",
        "%",
        "0000%",
        "' OR 1=1 --",
        "../../etc",
        "\u0660" * 8,
    ],
)
async def test_what_is_no_id_is_refused(client: JobClient, ask: Ask, job_id: str) -> None:
    """INVALID_ARGUMENT, for what no UUID begins like and for prefixes of less than four characters."""
    async with refused(client, InvalidArgumentError, "INVALID_JOB_ID"):
        await ask(client, job_id)


def _as_it_is(job_id: str) -> str:
    return job_id


def _short(job_id: str) -> str:
    return job_id[:4]


def _eight(job_id: str) -> str:
    return job_id[:8]


def _ends_with_a_dash(job_id: str) -> str:
    return job_id[:9]


def _without_dashes(job_id: str) -> str:
    return job_id.replace("-", "")


def _upper(job_id: str) -> str:
    return job_id.upper()


@every_ask
@pytest.mark.parametrize("form", [_as_it_is, _short, _eight, _ends_with_a_dash, _without_dashes, _upper])
async def test_a_prefix_that_one_job_has_names_it(client: JobClient, ask: Ask, form: Callable[[str], str]) -> None:
    """Ids may be cut to four characters, and written in capitals or without dashes, in every call."""
    lasts = ask in (ASKS["stop"], ASKS["signal"])  # it must be there for them, and they end it
    job = await client.start(["sleep", "1000" if lasts else "0.1"])
    await ask(client, form(job.id))
    (ended,) = await client.wait(job.id)
    assert ended.id == job.id


async def test_a_prefix_that_several_jobs_have_is_refused(pki: TestPki, tmp_path: Path) -> None:
    """INVALID_ARGUMENT in every call: nothing is ever stopped by a guess."""
    # Jobs that wait cost little: make them until two share four characters.
    with trio.fail_after(patient(30)):
        async with (
            running_daemon(pki, tmp_path / "state", slots=1) as address,
            JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
        ):
            prefix = ""
            seen = {(await client.start(["sleep", "1000"])).id[:4]}

            async def start_some() -> None:
                nonlocal prefix
                while not prefix:
                    start = (await client.start(["true"])).id[:4]
                    if start in seen:
                        prefix = start
                    seen.add(start)

            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(start_some)
            for ask in ASKS.values():
                async with refused(client, InvalidArgumentError, "AMBIGUOUS_JOB_ID"):
                    await ask(client, prefix)


# ---- numbers


async def test_an_offset_is_not_negative(client: JobClient) -> None:
    """INVALID_ARGUMENT that names the field."""
    job = await client.start(["echo", "x"])
    async with (
        refused(client, InvalidArgumentError, "INVALID_REQUEST", "offset"),
        client.stream(job.id, offset=-1) as output,
    ):
        await anext(output)


@pytest.mark.parametrize("beyond", [1, 2**40, 2**63 - 1 - 2])
@pytest.mark.parametrize("ended", [True, False])
async def test_an_offset_beyond_the_end_is_out_of_range(client: JobClient, ended: bool, beyond: int) -> None:
    """OUT_OF_RANGE while the job runs and after, with both numbers; an offset at the end is fine."""
    job = await client.start(["sh", "-c", "echo x" if ended else "echo x; exec sleep 1000"])
    async with client.stream(job.id) as output:
        await anext(output)
    if ended:
        await client.wait(job.id)
    async with (
        refused(client, OutOfRangeError, "OFFSET_BEYOND_END"),
        client.stream(job.id, offset=2 + beyond) as output,
    ):
        await anext(output)
    await client.stop(job.id)
    async with client.stream(job.id, offset=2) as output:
        assert [chunk async for chunk in output] == []


@pytest.mark.parametrize("token", ["x", "MTo=", "MTotMQ==", "MTowMA==", "Mjox", "\u00e9", "1:1", "=" * 1000])
async def test_a_page_token_that_was_not_made_here_is_refused(client: JobClient, token: str) -> None:
    """INVALID_ARGUMENT that names the field."""
    channel = await client.channel()
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "page_token"):
        await channel.unary(methods.LIST, ListRequest(page_token=token))


@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_a_page_size_is_not_negative(client: JobClient, size: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "page_size"):
        await anext(client.list(page_size=size))


async def test_a_page_size_over_the_maximum_is_cut(client: JobClient) -> None:
    """AIP-158: too large a page is no error."""
    job = await client.start(["true"])
    assert [each.id async for each in client.list(page_size=2**31 - 1)] == [job.id]


@pytest.mark.parametrize("state", [0, 99])
async def test_a_state_that_there_is_not_is_refused(client: JobClient, state: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    channel = await client.channel()
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "states"):
        await channel.unary(methods.LIST, ListRequest(states=[state]))  # type: ignore[list-item] # is no state on purpose


@pytest.mark.parametrize("grace", [-0.001, -1.0, 86_401.0, 1e9])
async def test_a_grace_is_between_nothing_and_a_day(client: JobClient, grace: float) -> None:
    """INVALID_ARGUMENT that names the field, and the job goes on."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "grace_period"):
        await client.stop(job.id, grace=grace)
    assert (await client.query(job.id)).state == JobState.RUNNING
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize("signum", [0, -1, -9, 65, 10_000, 2**31 - 1])
async def test_a_signal_is_one_of_linux(client: JobClient, signum: int) -> None:
    """INVALID_ARGUMENT that names the field, and the job goes on."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "signal"):
        await client.signal(job.id, signum)
    if signum:  # 0 says nothing, and SIGTERM is what it is then
        async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "signal"):
            await client.stop(job.id, signum=signum)
    assert (await client.query(job.id)).state == JobState.RUNNING
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize("argv", [["true"], ["no-such-command-at-all"]])
async def test_a_job_that_has_ended_takes_no_signal(client: JobClient, argv: list[str]) -> None:
    """FAILED_PRECONDITION: there is no process."""
    job = await client.start(argv)
    await client.wait(job.id)
    async with refused(client, FailedPreconditionError, "JOB_NOT_RUNNING"):
        await client.signal(job.id, 15)


async def test_a_job_that_waits_takes_no_signal(pki: TestPki, tmp_path: Path) -> None:
    """FAILED_PRECONDITION: there is no process yet."""
    with trio.fail_after(patient(20)):
        async with (
            running_daemon(pki, tmp_path / "state", slots=1) as address,
            JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
        ):
            await client.start(["sleep", "1000"])
            waiting = await client.start(["true"])
            assert waiting.state == JobState.PENDING
            async with refused(client, FailedPreconditionError, "JOB_NOT_RUNNING"):
                await client.signal(waiting.id, 15)


async def test_stopping_a_job_that_has_ended_is_no_error(client: JobClient) -> None:
    """The answer tells how it ended; nothing changes."""
    job = await client.start(["sh", "-c", "exit 3"])
    (ended,) = await client.wait(job.id)
    stopped = await client.stop(job.id)
    stopped.usage = None  # answers about many jobs do not have it
    assert stopped == ended
    assert (ended.state, ended.exit_code, ended.stopped_by) == (JobState.FAILED, 3, "")


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_wait_is_for_one_job_at_least_and_a_thousand_at_most(client: JobClient, count: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "job_ids"):
        await client.wait(*[NO_JOB] * count)


async def test_a_wait_for_several_fails_if_one_is_not_there(client: JobClient) -> None:
    """NOT_FOUND at once, though another of them runs."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, NotFoundError, "JOB_NOT_FOUND"):
        await client.wait(job.id, NO_JOB)
    await client.stop(job.id)


# ---- messages are safe to show


@pytest.mark.parametrize("job_id", ["\x1b[31mred\n", "x" * 100_000, "\u202ertl"])
async def test_a_message_has_what_was_sent_escaped_and_cut(client: JobClient, job_id: str) -> None:
    """What a caller sends cannot move a cursor, or fill a screen, where the error is shown."""
    with pytest.raises(InvalidArgumentError) as caught:
        await client.query(job_id)
    assert re.fullmatch(r"[ -~]{1,300}", caught.value.message)
