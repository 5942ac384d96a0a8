"""What is asked about several jobs."""

from __future__ import annotations

import pytest
import trio

from api.errors import JobdError, NotFoundError
from jobcli.commands._several import AT_ONCE, of_each


async def test_all_are_asked_at_once_and_told_of_in_their_order(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has a second; the whole has one, and the last to be asked is told of first."""

    async def call(job_id: str) -> str:
        await trio.sleep(1 - int(job_id) / 10)
        return job_id

    told = list[tuple[str, float]]()
    began = trio.current_time()
    assert await of_each("0123", call, lambda answer: told.append((answer, trio.current_time() - began))) == 0
    assert told == [(job_id, pytest.approx(1)) for job_id in "0123"]
    assert capsys.readouterr().err == ""


async def test_an_error_is_said_and_keeps_nobody_from_being_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Every one is, and the exit code says that there was one."""

    async def call(job_id: str) -> str:
        await trio.lowlevel.checkpoint()
        if job_id in "ac":
            raise NotFoundError(f"there is no job {job_id}")
        return job_id

    told = list[str]()
    assert await of_each("abcd", call, told.append) == 125
    assert told == ["b", "d"]
    assert capsys.readouterr().err == "jobcli: there is no job a\njobcli: there is no job c\n"


async def test_not_more_than_some_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """However many there are."""
    now, most = 0, 0

    async def call(job_id: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1

    assert await of_each(["x"] * (3 * AT_ONCE), call) == 0
    assert most == AT_ONCE


async def test_another_error_is_not_said_but_raised() -> None:
    """A fault of ours is none of a job's."""

    async def call(job_id: str) -> None:
        raise ValueError(job_id)

    with pytest.raises(ExceptionGroup) as raised:
        await of_each("a", call)
    assert not raised.group_contains(JobdError)
    assert raised.group_contains(ValueError)
