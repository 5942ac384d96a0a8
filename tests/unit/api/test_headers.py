"""What a request's headers may be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.rpc.events import Request
from api.rpc.headers import (
    LONGEST,
    MAX_DEADLINE,
    REMEMBERED,
    REQUEST_PSEUDO,
    MalformedHeadersError,
    RequestParser,
    checked,
    refusal,
)

GOOD = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/service/Method"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def with_(**changes: str) -> list[tuple[str, str]]:
    """The good headers with some changed; double underscores stand for dashes, a leading p_ for a colon."""
    named = {key.replace("p_", ":").replace("__", "-"): value for key, value in changes.items()}
    return [(k, v) for k, v in GOOD if k not in named] + [(k, v) for k, v in named.items() if v is not None]


def test_a_grpc_call_is_taken() -> None:
    """The usual headers of a gRPC call are no reason for refusal."""
    assert refusal(GOOD) is None
    assert refusal(with_(content__type="application/grpc+proto")) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (with_(p_method="GET"), 405),
        (with_(content__type="application/json"), 415),
        (with_(content__type="application/grpcfoo"), 415),
        (with_(te="gzip"), 200),
        (with_(p_scheme="ftp"), 200),
        (with_(p_path="a/b"), 200),
        (with_(grpc__timeout="123456789S"), 200),
        (with_(grpc__timeout="1"), 200),
        (with_(grpc__timeout="-1S"), 200),
        (with_(token__bin="not base64!"), 200),
    ],
)
def test_what_is_no_grpc_call_is_refused_with_its_status(headers: list[tuple[str, str]], status: int) -> None:
    """HTTP's own status where HTTP has one (405, 415), else gRPC's in the trailers."""
    found = refusal(headers)
    assert found is not None
    assert found.http_status == status


@pytest.mark.parametrize(
    "header",
    [
        (b"x-name", b"a\r\nb"),
        (b"x-name", b"a\0b"),
        (b"X-Name", b"capitals"),
        (b"x name", b"space"),
        (b"", b"empty"),
        (b"x-\xff", b"not ascii"),
    ],
)
def test_forbidden_characters_are_malformed(header: tuple[bytes, bytes]) -> None:
    """RFC 9113, 8.2.1 (the h2 that purerpc needs lets them through: CVE-2025-57804)."""
    with pytest.raises(MalformedHeadersError):
        checked([header], REQUEST_PSEUDO)


@pytest.mark.parametrize(
    "headers",
    [
        [(b":path", b"/a/b"), (b":path", b"/c/d")],
        [(b"te", b"trailers"), (b"te", b"trailers")],
        [(b"x", b"y"), (b":path", b"/a/b")],
        [(b":protocol", b"websocket")],
        [(b"connection", b"close")],
        [(b"transfer-encoding", b"chunked")],
    ],
)
def test_headers_that_are_out_of_place_are_malformed(headers: list[tuple[bytes, bytes]]) -> None:
    """Twice, after the regular ones, unknown, or of HTTP/1: each could be read in two ways (RFC 9113, 8.2.2, 8.3)."""
    with pytest.raises(MalformedHeadersError):
        checked(headers, REQUEST_PSEUDO)


def test_what_was_judged_once_is_looked_up() -> None:
    """The same headers are the same request, on another stream; what is kept of them is bounded."""
    raw = [(name.encode(), value.encode()) for name, value in GOOD]
    parser = RequestParser()
    for number in range(3 * REMEMBERED):
        first, again = parser.parse(raw), parser.parse(list(raw))
        assert isinstance(first, Request)
        assert first is again
        other = parser.parse([*raw, (b"x-trace", b"%d" % number)])
        assert isinstance(other, Request)
        assert other.metadata == (("x-trace", str(number)),)
        assert len(parser._known) <= REMEMBERED
    parser.parse([*raw, (b"x-long", b"x" * LONGEST)])
    assert not any(b"x-long" in dict(key) for key in parser._known)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("4m", 0.004),
        ("5u", 5e-6),
        ("6n", 6e-9),
        ("0S", 0),
        ("99999999H", MAX_DEADLINE),
    ],
)
def test_a_deadline_differs_and_the_rest_is_looked_up(text: str, seconds: float) -> None:
    """Whatever its unit; requests that differ in nothing else are one that is kept."""
    raw = [(name.encode(), value.encode()) for name, value in GOOD]
    parser = RequestParser()
    plain = parser.parse(raw)
    assert isinstance(plain, Request)
    for place in (len(raw), 4):
        timed = parser.parse([*raw[:place], (b"grpc-timeout", text.encode()), *raw[place:]])
        assert isinstance(timed, Request)
        assert timed.timeout == pytest.approx(seconds)
        assert replace(timed, timeout=None) == plain
    assert len(parser._known) == 1


def test_a_deadline_out_of_place_is_malformed() -> None:
    """Before what has to stand in front, or twice, it is not taken out of the way."""
    raw = [(name.encode(), value.encode()) for name, value in GOOD]
    timeout = (b"grpc-timeout", b"1S")
    for headers in ([timeout, *raw], [*raw[:2], timeout, *raw[2:]], [*raw, timeout, timeout]):
        with pytest.raises(MalformedHeadersError):
            RequestParser().parse(headers)
