"""What may stand in the headers of a request, checked before purerpc reads them.

The h2 that purerpc needs lets through header names and values that RFC 9113 (8.2.1, 8.3.1) forbids, and
purerpc's parser raises on anything it does not expect, which would cost the whole connection. So each request
is judged here, and one that cannot be taken costs its own stream only.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from purerpc.grpclib.events import RequestReceived
from purerpc.grpclib.headers import HeaderDict

from api.rpc.events import Request
from api.trace import trace_of

RawHeaders = Iterable[tuple[bytes, bytes]]
Headers = tuple[tuple[str, str], ...]

_NAME = re.compile(rb":?[a-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE = re.compile(rb"[\x20-\x7e\t\x80-\xff]*\Z")
_TIMEOUT = re.compile(r"[0-9]{1,8}[HMSmun]\Z")
_TIMEOUT_NAME: Final = b"grpc-timeout"
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
"""Seconds."""
_CONTENT_TYPE = re.compile(r"application/grpc(\Z|[+;])")
_ONCE: Final = frozenset(
    {"te", "content-type", "content-length", "grpc-timeout", "grpc-encoding", "user-agent", "grpc-status"}
)
REQUEST_PSEUDO: Final = frozenset({":method", ":scheme", ":path", ":authority"})
RESPONSE_PSEUDO: Final = frozenset({":status"})
NO_PSEUDO: Final[frozenset[str]] = frozenset()
REMEMBERED: Final = 32
"""Requests that are kept for each connection."""
LONGEST: Final = 1024
"""Bytes of the longest one that is, its headers together."""
MAX_DEADLINE: Final = 10 * 365 * 86400.0
"""Seconds; a longer grpc-timeout is taken as this (the standard allows 10^8 hours)."""
_OF_HTTP_1: Final = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is no gRPC call.

    Attributes:
        http_status: the HTTP status for the answer; 200 when the failure is one of gRPC, told in the trailers.
        message: what was wrong.
    """

    http_status: int
    message: str


class MalformedHeadersError(ValueError):
    """Headers that RFC 9113 calls malformed: the stream is reset, nothing is answered."""


def request_headers(
    path: str, authority: str, *, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None
) -> Headers:
    """What a client of this project says in front of a request.

    Args:
        timeout: seconds.
    """
    return (
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", authority),
        *(() if timeout is None else (("grpc-timeout", _wire_timeout(timeout)),)),
        ("te", "trailers"),
        ("content-type", "application/grpc+proto"),
        *metadata,
    )


def _wire_timeout(seconds: float) -> str:
    """In the eight digits that gRPC allows, rounded up."""
    seconds = min(max(seconds, 0.0), 99_999_999.0)
    if seconds > 99 or seconds == int(seconds):
        return f"{math.ceil(seconds)}S"
    return f"{math.ceil(seconds * 1_000_000)}u"


class RequestParser:
    """Requests of one connection. Clients send the same headers again and again: what was judged once is looked up."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[bytes, bytes], ...], Request] = {}

    def parse(self, headers: Sequence[tuple[bytes, bytes]]) -> Request | Refusal:
        """The request, or why it is none.

        Raises:
            MalformedHeadersError: RFC 9113 calls them malformed.
        """
        key = tuple(headers)
        known = self._known.get(key)
        if known is None:
            rest, timeout = _without_timeout(key)
            if timeout is not None:  # it differs from call to call, and all else does not
                judged = self.parse(rest)
                return replace(judged, timeout=timeout) if isinstance(judged, Request) else judged
            found = _request(headers)
            if isinstance(found, Refusal):
                return found
            known = found
            if sum(len(name) + len(value) for name, value in key) <= LONGEST:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()  # what is seen again is soon known again
                self._known[key] = known
        return known


def _without_timeout(
    headers: tuple[tuple[bytes, bytes], ...],
) -> tuple[tuple[tuple[bytes, bytes], ...], float | None]:
    """The headers without the one grpc-timeout, and its seconds; all of them and None, if it is not there, not where it
    may be, or not well-formed."""
    places = [place for place, (name, _) in enumerate(headers) if name == _TIMEOUT_NAME]
    if len(places) != 1 or any(name.startswith(b":") for name, _ in headers[places[0] :]):
        return headers, None
    value = headers[places[0]][1].decode("latin-1")
    if not _TIMEOUT.match(value):
        return headers, None
    seconds = int(value[:-1]) * _UNITS[value[-1]]
    return headers[: places[0]] + headers[places[0] + 1 :], min(seconds, MAX_DEADLINE)


def _request(headers: RawHeaders) -> Request | Refusal:
    well_formed = checked(headers, REQUEST_PSEUDO)
    refused = refusal(well_formed)
    if refused:
        return refused
    values = HeaderDict(well_formed)
    path = values[":path"]
    if path.count("/") != 2:  # purerpc raises on it; it is a method that nobody has
        values[":path"] = "/unknown/unknown"
    parsed = RequestReceived.parse_from_stream_id_and_headers_destructive(0, values)
    metadata: tuple[tuple[str, str | bytes], ...] = parsed.custom_metadata
    return Request(path, metadata, None, trace_of(metadata) if metadata else None)


def checked(headers: RawHeaders, pseudo: frozenset[str]) -> list[tuple[str, str]]:
    """The headers as text, when they are well-formed (RFC 9113, 8.2 and 8.3).

    Args:
        pseudo: the pseudo-headers that may stand here.

    Raises:
        MalformedHeadersError: they are not.
    """
    result: list[tuple[str, str]] = []
    seen: set[str] = set()
    regular = False
    for name, value in headers:
        if not _NAME.match(name) or not _VALUE.match(value):
            raise MalformedHeadersError("a header has characters that HTTP/2 forbids")
        key = name.decode("ascii")
        is_pseudo = key.startswith(":")
        if is_pseudo and (regular or key not in pseudo):
            raise MalformedHeadersError(f"the pseudo-header {key} does not belong there")
        if key in _OF_HTTP_1:
            raise MalformedHeadersError(f"the header {key} belongs to HTTP/1")
        if key in seen and (is_pseudo or key in _ONCE):
            raise MalformedHeadersError(f"the header {key} stands twice")
        regular = regular or not is_pseudo
        seen.add(key)
        result.append((key, value.decode("latin-1")))
    return result


def refusal(headers: list[tuple[str, str]]) -> Refusal | None:
    """Why a request with these headers cannot be a gRPC call, or None when it can."""
    given = dict(headers)
    if given.get(":method") != "POST":
        return Refusal(405, "a gRPC call is a POST")
    if not _CONTENT_TYPE.match(given.get("content-type", "")):
        return Refusal(415, "the content-type of a gRPC call is application/grpc")
    if given.get(":scheme") not in ("http", "https") or given.get("te") != "trailers":
        return Refusal(200, "a gRPC call has :scheme https and te: trailers; is there a proxy that drops trailers?")
    if not given.get(":path", "").startswith("/"):
        return Refusal(200, "the path of a gRPC call is /service/method")
    if "grpc-timeout" in given and not _TIMEOUT.match(given["grpc-timeout"]):
        return Refusal(200, "grpc-timeout is at most 8 digits and one of H, M, S, m, u, n")
    if not all(_is_base64(value) for name, value in headers if name.endswith("-bin")):
        return Refusal(200, "metadata whose name ends in -bin is base64")
    return None


def _is_base64(value: str) -> bool:
    try:
        for part in value.split(","):
            base64.b64decode(part.rstrip("=") + "=" * (-len(part.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
