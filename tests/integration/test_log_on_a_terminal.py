"""What clients send cannot write to the operator's terminal, nor forge lines of the log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
import trio

from api.address import parse_address
from api.client import JobClient
from api.errors import InvalidArgumentError, UnauthenticatedError
from api.messages import QueryRequest
from api.methods import QUERY
from api.rpc.channel import open_channel
from api.tls import client_context
from jobd.logs import printable
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.strange_certificates import EVIL, NAMES, strange_certificate

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The operator's: what it is written to, and what shows what came."""
    near, far = os.openpty()
    try:
        yield near, far
    finally:
        os.close(near)
        os.close(far)


def shown(near: int, until: str) -> str:
    """What stands on the terminal, up to a text."""
    seen = b""
    while until.encode() not in seen:
        seen += os.read(near, 65536)
    return seen.decode()


async def test_what_a_client_calls_its_jobs_is_escaped_on_the_terminal(pki: TestPki, tmp_path: Path) -> None:
    """The audit line shows it, and nothing but jobd's own colours is a control character in it."""
    with terminal() as (near, far), jobd_program(pki, tmp_path / "state", stderr=far) as jobd:
        with trio.fail_after(patient(20)):
            async with JobClient.connect(jobd.server, **pki.credentials("rita"), retry_for=0) as client:
                with pytest.raises(InvalidArgumentError):
                    await client.query(EVIL)
            text = COLOURS.sub("", await trio.to_thread.run_sync(shown, near, "INVALID_ARGUMENT"))
    [line] = [line for line in text.split("\r\n") if "INVALID_ARGUMENT" in line]
    assert r"\x1b]0;owned\x07\x1b[2J\u202eforged" in line
    assert line.isprintable()


@pytest.mark.filterwarnings("ignore:Attribute's length")  # by who makes the certificate, which is what we want
async def test_a_certificate_that_names_nobody_gets_in_nowhere(pki: TestPki, tmp_path: Path) -> None:
    """UNAUTHENTICATED, though the CA has signed it; the answer and the log are clean and short, in both forms."""
    subjects = [*([name] for name in NAMES.values()), ["alice", "alice"], []]
    contexts = [client_context(**strange_certificate(pki, tmp_path, names)) for names in subjects]
    with terminal() as (near, far), jobd_program(pki, tmp_path / "state", stderr=far) as jobd:
        text = ""
        for names, context in zip(subjects, contexts, strict=True):
            with trio.fail_after(patient(20)):
                async with open_channel(*parse_address(jobd.server), context) as channel:
                    with pytest.raises(UnauthenticatedError, match="names no principal") as caught:
                        await channel.unary(QUERY, QueryRequest("0000"))
                text += await trio.to_thread.run_sync(shown, near, "UNAUTHENTICATED")
            assert caught.value.reason == "NO_PRINCIPAL", names
            assert caught.value.message.isprintable()
            assert len(caught.value.message) < 500
    lines = COLOURS.sub("", text).split("\r\n")
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert sum("UNAUTHENTICATED" in line for line in lines) == len(subjects)
    assert "Warning" not in text  # nothing but what jobd says itself


def test_a_traceback_keeps_its_lines() -> None:
    """Only its own."""
    event = {"event": "x", "exception": "a\n\x1bb\rc", "error": "a\nb", "count": 3}
    assert printable(structlog.get_logger(), "error", dict(event)) == {
        "event": "x",
        "exception": "a\n\\x1bb\\rc",
        "error": "a\\nb",
        "count": 3,
    }
