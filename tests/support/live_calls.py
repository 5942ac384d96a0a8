"""Clients whose calls last while certificates change, and what the daemon says of it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from structlog.typing import EventDict

from api.address import parse_address
from api.client import JobClient
from api.errors import RpcError
from api.output import OutputStream
from tests.support.live_pki import LivePki
from tests.support.patience import patient

SECONDS = patient(20)
SOON = patient(5)
"""Seconds within which a change is noticed and calls have ended for it; about one, when the machine has nothing else
to do (tests/unit/jobd/trust counts the looks)."""
TICK = 0.01
TAKEN = "new certificates are in force"
KEPT = "new certificates cannot be used, the old stay in force"
NO_JOB = "00000000-0000-4000-8000-000000000000"


def connect(pki: LivePki, server: str, name: str, **changed: Any) -> Any:
    """As one of the clients; to fail at once when that does not work."""
    return JobClient.connect(server, **{**pki.credentials(name), "retry_for": 0, **changed})


async def until(condition: Callable[[], object]) -> None:
    """Until something is so that nothing tells of."""
    while not condition():
        await trio.sleep(0.005)


class Ticks:
    """Time as the machine gives it: sleeps of 10 ms with a thread in each. On a busy one they come more seldom, as does
    everything that a server does meanwhile; never more often.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await trio.sleep(TICK)
            await trio.to_thread.run_sync(time.monotonic)
            self.count += 1


def said(log: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in log if entry["event"] == event]


def audited(log: list[EventDict], principal: str) -> list[tuple[str, str, str | None]]:
    """Method, status and reason of each call of somebody that has ended."""
    lines = [entry for entry in said(log, "call") if entry["principal"] == principal]
    return [(line["method"].rpartition("/")[2], line["status"], line["reason"]) for line in lines]


async def serial_of(server: str, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    host, port = parse_address(server)
    async with await trio.open_tcp_stream(host, port) as tcp:
        stream = trio.SSLStream(tcp, context, server_hostname=host)
        await stream.do_handshake()
        der = stream.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


async def first_of(client: JobClient, job_id: str) -> bytes:
    """The first piece of a job's output."""
    async with client.stream(job_id) as output:
        return (await anext(output)).data


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


class Follower:
    """Somebody with a call that lasts, and when and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.error: RpcError | None = None
        self.ended_at = 0.0

    async def follow(
        self, opened: AbstractAsyncContextManager[OutputStream], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Follow a stream, or an attachment; started when the first of it is there."""
        with self._ending():
            async with opened as output:
                async for chunk in output:
                    self.received += chunk.data
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED

    async def wait(self, client: JobClient, job_id: str) -> None:
        """Wait for a job's end."""
        with self._ending():
            await client.wait(job_id)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except RpcError as exc:
            self.error = exc
        self.ended_at = time.monotonic()
