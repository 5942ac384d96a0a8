"""The line of a call in the server's log: made without structlog's chain, and the same line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from api.errors import Code
from api.identity import Principal, Role
from api.methods import BY_PATH, CHECK
from api.rpc.server import ServerCall
from api.trace import TraceContext
from jobd import logs
from jobd.middleware import audit as middleware
from jobd.middleware.audit import MAX_SHOWN, audit, audit_in_log

ALICE = Principal('ali"ce\\ é\u2028', frozenset({Role.READER, Role.WRITER}), "1f")
TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@dataclass
class Said:
    """What a call has, for the line."""

    id: str = "0badcafe-1f"
    path: str = CHECK.path
    peer: str = "[::1]:50051"
    principal: Principal | None = None
    broker: Principal | None = None
    job_id: str = ""
    trace: TraceContext | None = None

    @property
    def call(self) -> ServerCall:
        return cast("ServerCall", SimpleNamespace(method=BY_PATH.get(self.path), **vars(self)))


CALLS = (
    Said(),
    Said(principal=ALICE, job_id="0123", trace=TRACE),
    Said(path="/no such\r\n\x1b[1m/ü" + "x" * 300, principal=ALICE, job_id="\x00\n\ud800'\"" * MAX_SHOWN),
    Said(principal=ALICE, broker=Principal('b"r', frozenset({Role.BROKER}), "2")),
)


class Stderr(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal  # type: ignore[method-assign]


@contextmanager
def log(monkeypatch: pytest.MonkeyPatch, level: str = "info", *, terminal: bool = False) -> Iterator[Stderr]:
    """Structlog as the server has it, and what it writes."""
    before, stderr = structlog.get_config(), Stderr(terminal=terminal)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        # The module's own remembers how it was set up when it was used first.
        patched.setattr(middleware, "audit_log", structlog.get_logger("audit"))
        logs.configure(level)
        yield stderr
        logs.configure("error")
        structlog.configure(**before)


def lines(stderr: Stderr) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in stderr.getvalue().splitlines()]
    stderr.seek(0)
    stderr.truncate()
    for line in found:
        said = line.pop("timestamp")
        assert said.endswith("Z")
        assert datetime.fromisoformat(said).tzinfo
    return found


@pytest.mark.parametrize("said", CALLS)
@pytest.mark.parametrize(("reason", "seconds"), [("", 0.0), ('RE"ASON', 1.23456789e-05), ("X", 86400.0)])
def test_the_short_way_writes_the_same_line(
    monkeypatch: pytest.MonkeyPatch, said: Said, reason: str, seconds: float
) -> None:
    """Whatever a client calls its jobs and its methods, and whoever it is."""
    with log(monkeypatch) as stderr:
        fast = audit_in_log()
        assert fast is not audit
        fast(said.call, Code.NOT_FOUND, reason, seconds)
        [ours] = lines(stderr)
        audit(said.call, Code.NOT_FOUND, reason, seconds)
        [theirs] = lines(stderr)
        assert ours == theirs


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_line_that_is_not_wanted_is_not_written(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """By structlog's level, as all others."""
    with log(monkeypatch, level):
        assert audit_in_log() is audit


def test_a_log_that_is_set_up_otherwise_is_left_to_structlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever has the process, and on a terminal."""
    with log(monkeypatch), structlog.testing.capture_logs():
        assert audit_in_log() is audit
    with log(monkeypatch, terminal=True):
        assert audit_in_log() is audit


def test_nobody_has_to_read_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr that is gone fails no call."""
    with log(monkeypatch) as stderr:
        fast = audit_in_log()
        stderr.close()
        fast(Said().call, Code.OK, "", 0.0)
