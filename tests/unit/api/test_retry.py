"""Trying again: how long, how often, and when the server says when."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
import trio
import trio.testing
from betterproto.lib.google.protobuf import Any, Duration

from api._generated.google.rpc import RetryInfo, Status
from api.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from api.protobuf import decode, encode
from api.retry import FIRST_PAUSE, LONGEST_PAUSE, Retry, may_retry
from api.rpc.status import details_of, error_from


def base64_of(details: bytes) -> str:
    return base64.b64encode(details).decode()


async def test_pauses_grow_until_the_time_is_up(autojump_clock: trio.testing.MockClock) -> None:
    """Then no more, at once."""
    retry, begun = Retry(10), trio.current_time()
    pauses = []
    while await retry.pause():
        pauses.append(trio.current_time() - begun - sum(pauses))
    assert pauses[0] <= FIRST_PAUSE
    assert max(pauses) <= LONGEST_PAUSE
    assert trio.current_time() - begun == pytest.approx(10)


async def test_what_the_server_asks_for_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """At least that, and a little more each time, so that many do not come at once."""
    retry = Retry(100)
    pauses = []
    for _ in range(8):
        begun = trio.current_time()
        assert await retry.pause(5.0)
        pauses.append(trio.current_time() - begun)
    assert min(pauses) >= 5.0
    assert pauses[0] <= 5.0 + FIRST_PAUSE
    assert 5.0 + LONGEST_PAUSE / 2 <= pauses[-1] <= 5.0 + LONGEST_PAUSE


@pytest.mark.parametrize("asked", [10.0, 1e300])
async def test_what_would_be_too_late_is_not_waited_for(asked: float, autojump_clock: trio.testing.MockClock) -> None:
    """A server cannot make a client wait longer than the client wants to."""
    begun = trio.current_time()
    assert not await Retry(10).pause(asked)
    assert trio.current_time() == begun


def test_a_limit_is_retried_only_when_the_server_says_when() -> None:
    """As what cannot be reached is, always; everything else is an answer."""
    assert may_retry(UnavailableError("gone"))
    assert may_retry(ResourceExhaustedError("later", retry_after=0.0))
    assert not may_retry(ResourceExhaustedError("too much"))
    assert not may_retry(NotFoundError("no", retry_after=1.0))


def test_when_to_try_again_crosses_the_wire() -> None:
    """As google.rpc.RetryInfo, to the microsecond, beside the reason."""
    details = details_of(ResourceExhaustedError("later", reason="X", retry_after=0.0125))
    assert details is not None
    assert [any_.type_url.rpartition("/")[2] for any_ in decode(Status, details).details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
    ]
    error = error_from(8, "later", base64_of(details))
    assert isinstance(error, ResourceExhaustedError)
    assert (error.reason, error.retry_after) == ("X", 0.0125)


@pytest.mark.parametrize(
    ("info", "meant"),
    [
        (encode(RetryInfo(retry_delay=timedelta(seconds=-5))), 0.0),
        (b"", 0.0),
        (b"\x0a\x02\x08\x01", 1.0),
        (b"\x0a\xff", None),
        (b"\x0a\x0b" + bytes(Duration(seconds=2**62)), None),
    ],
)
def test_whatever_a_server_says_is_a_time_or_nothing(info: bytes, meant: float | None) -> None:
    """Negative, empty, cut or beyond all calendars: the error itself stays."""
    status = Status(8, "x", [Any("type.googleapis.com/google.rpc.RetryInfo", info)])
    error = error_from(8, "x", base64_of(encode(status)))
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after == meant
