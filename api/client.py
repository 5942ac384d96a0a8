"""The Python client: typed calls, and output streams that resume by themselves.

    async with JobClient.connect("localhost:50051", cert="alice.crt", key="alice.key", ca="ca.crt") as jobs:
        job = await jobs.start(["make", "-j2"], cwd="/srv/project")
        async with jobs.stream(job.id) as output:
            async for chunk in output:
                sys.stdout.buffer.write(chunk.data)
        print(output.verdict)

Needs trio. Calls that fail because the server cannot be reached, or has said when it takes more, are made again, with
growing pauses, until ``retry_for`` seconds have passed; that is safe for all of them (a Start carries a request id).
"""

from __future__ import annotations

import os
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

import trio

from api import methods
from api.address import parse_addresses
from api.attachment import Attachment
from api.background import background_nursery
from api.errors import FieldViolation, InvalidArgumentError, RpcError, UnavailableError
from api.messages import (
    DeleteRequest,
    DrainRequest,
    ForgetRequest,
    Isolation,
    Job,
    JobSpec,
    JobState,
    Limits,
    ListRequest,
    ListWorkersRequest,
    ListWorkersResponse,
    OutputSource,
    QueryRequest,
    SignalRequest,
    StartRequest,
    StdinMode,
    StopMode,
    StopRequest,
    StreamRequest,
    Terminal,
    UndrainRequest,
    WaitMode,
    WaitRequest,
)
from api.methods import Method, Request, Response
from api.output import OutputStream
from api.retry import Retry, may_retry
from api.rpc.channel import CONNECT_TIMEOUT, Channel, open_channel
from api.tls import client_context
from api.trace import TraceContext

RETRY_FOR: Final = 30.0
ONE_OF_SEVERAL: Final = 2.0
"""Seconds for a connection to a server, when there are others to go to."""


class JobClient:
    """A client of one server. Many tasks may use it at once; they share one connection. Made by :meth:`connect`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        addresses: Sequence[tuple[str, int]],
        context: ssl.SSLContext,
        retry_for: float,
        trace: TraceContext | None = None,
    ) -> None:
        self._nursery = nursery
        self._trace = trace
        self._addresses, self._context = deque(addresses), context
        self.retry_for = retry_for
        self._channels: dict[tuple[str, int], Channel] = {}
        self._connecting = trio.Lock()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        server: str,
        *,
        cert: str | os.PathLike[str],
        key: str | os.PathLike[str],
        ca: str | os.PathLike[str],
        key_passphrase_file: str | os.PathLike[str] | None = None,
        retry_for: float = RETRY_FOR,
        trace: TraceContext | None = None,
    ) -> AsyncIterator[Self]:
        """Read the credentials; the connection is made by the first call, and made anew when it was lost.

        Args:
            server: ``HOST:PORT``; or several with commas between them, of brokers of one pool: the first that can be
                reached is used, and when that is lost, the next.
            cert, key: the client's certificate and private key (PEM files).
            ca: the certificate of the CA that signed the server's (PEM file).
            key_passphrase_file: a file whose first line opens the private key, if that is encrypted.
            retry_for: seconds for which a call, or an interrupted stream, tries to reach the server again;
                0 for one try only.
            trace: the trace that the calls are made in; jobs that are started are told of it.

        Raises:
            ConfigError: the address or a file cannot be used.
        """
        addresses = parse_addresses(server)
        passphrase = None if key_passphrase_file is None else Path(key_passphrase_file)
        context = client_context(certificate=Path(cert), key=Path(key), ca=Path(ca), passphrase=passphrase)
        async with background_nursery() as nursery:
            yield cls(nursery, addresses, context, retry_for, trace)

    # ---- calls

    async def start(
        self,
        argv: Sequence[str],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        limits: Limits | None = None,
        user: str = "",
        group: str = "",
        umask: int | None = None,
        secrets: Mapping[str, str] | None = None,
        isolation: Isolation | None = None,
        stdin: bytes | None = None,
        attachable: bool = False,
        terminal: Terminal | None = None,
        worker_labels: Mapping[str, str] | None = None,
        retry_lost: int = 0,
        request_id: str | None = None,
    ) -> Job:
        """Start a process. A job that could not be started comes back in the state START_FAILED.

        Args:
            limits: what it may use, beside what the server is set to.
            user, group: whom it runs as, by name; the server's job user, and the user's own group, when "".
            umask: its file mode creation mask; 0o022 when None.
            secrets: environment variables whose values no answer shows.
            isolation: what keeps it from the machine and from other jobs.
            stdin: what it reads from stdin; nothing, when None.
            attachable: its stdin is a pipe, for :meth:`attach` to write to.
            terminal: it has a terminal, for :meth:`attach`.
            worker_labels: labels that the worker has to have, in a pool.
            retry_lost: how often a pool runs it again when it is lost; it can then run twice at the same time. Not of
                one that can be attached to.
            request_id: the name under which the request is safe to send again; a new one is made by default.

        Raises:
            RpcError: as the server answered.
        """
        spec = JobSpec(argv=list(argv), name=name, env=dict(env or {}), cwd=cwd, limits=limits, isolation=isolation)
        spec.user, spec.group, spec.umask, spec.secret_env = user, group, umask, dict(secrets or {})
        spec.stdin = StdinMode(StdinMode.PIPE if attachable and terminal is None else StdinMode.UNSPECIFIED)
        spec.stdin_data, spec.terminal = stdin or b"", terminal
        spec.worker_labels, spec.retry_lost = dict(worker_labels or {}), retry_lost
        request = StartRequest(spec=spec, request_id=request_id or str(uuid.uuid4()))
        return (await self._call(methods.START, request)).job

    async def stop(self, job_id: str, *, grace: float | None = None, signum: int = 0, main_only: bool = False) -> Job:
        """End a job; returns when no process of it is left, with the receipt.

        Args:
            grace: seconds from the first signal to SIGKILL; the server's default when None.
            signum: the first signal; SIGTERM when 0.
            main_only: the first signal is for the main process alone.

        Raises:
            InvalidArgumentError: the grace is negative (said here: betterproto writes a negative part of a second
                as a positive one), or beyond what the server allows.
        """
        if grace is not None and not grace >= 0:
            raise InvalidArgumentError(
                f"grace_period is {grace:g} seconds, and cannot be negative",
                reason="INVALID_REQUEST",
                violations=(FieldViolation("grace_period", "is negative"),),
            )
        request = StopRequest(
            job_id=job_id,
            grace_period=None if grace is None else timedelta(seconds=grace),
            signal=signum,
            mode=StopMode["MAIN" if main_only else "GROUP"],
        )
        return (await self._call(methods.STOP, request)).job

    async def signal(self, job_id: str, signum: int) -> Job:
        """Send a signal to all processes of a running job."""
        return (await self._call(methods.SIGNAL, SignalRequest(job_id, signum))).job

    async def delete(self, job_id: str) -> None:
        """Forget a job that has ended: its record, its request_id, its output."""
        await self._call(methods.DELETE, DeleteRequest(job_id))

    async def query(self, job_id: str) -> Job:
        """Everything known of one job."""
        return (await self._call(methods.QUERY, QueryRequest(job_id=job_id))).job

    async def wait(self, *job_ids: str, any_of_them: bool = False, timeout: float | None = None) -> list[Job]:
        """Wait until all of the jobs (or any) have ended; returns all of them as they are then.

        Raises:
            DeadlineExceededError: ``timeout`` seconds passed first.
        """
        mode = WaitMode(WaitMode.ANY if any_of_them else WaitMode.ALL)
        return (await self._call(methods.WAIT, WaitRequest(list(job_ids), mode), timeout=timeout)).jobs

    async def list(self, *, states: Sequence[JobState] = (), page_size: int = 0) -> AsyncIterator[Job]:
        """Every job (in one of the states), newest first, fetched page by page."""
        token = ""
        while True:
            request = ListRequest(page_size=page_size, page_token=token, states=[*states])
            page = await self._call(methods.LIST, request)
            for job in page.jobs:
                yield job
            token = page.next_page_token
            if not token:
                return

    async def workers(self) -> ListWorkersResponse:
        """The workers, the jobs each is running, and the number that waits."""
        return await self._call(methods.LIST_WORKERS, ListWorkersRequest())

    async def drain(self, worker: str) -> None:
        """Give a worker of a pool no further jobs; those that it has go on."""
        await self._call(methods.DRAIN, DrainRequest(worker))

    async def undrain(self, worker: str) -> None:
        """Give a worker that was drained jobs again."""
        await self._call(methods.UNDRAIN, UndrainRequest(worker))

    async def forget(self, job_id: str) -> Job:
        """Give up a job whose worker is gone for ever; it is LOST."""
        return (await self._call(methods.FORGET, ForgetRequest(job_id))).job

    @asynccontextmanager
    async def stream(
        self,
        job_id: str,
        *,
        offset: int = 0,
        tail_bytes: int | None = None,
        tail_lines: int | None = None,
        since: datetime | None = None,
        source: OutputSource | None = None,
    ) -> AsyncIterator[OutputStream]:
        """Follow a job's output until its verdict; see :class:`OutputStream`.

        Args:
            offset: begin at this byte.
            tail_bytes, tail_lines: begin so much before the end of what is recorded now.
            since: begin with what was read from the job at this time (aware) or later.
            source: only this one of the two streams.
        """
        request = StreamRequest(job_id=job_id, source=OutputSource(source or OutputSource.UNSPECIFIED))
        if tail_bytes is not None:
            request.tail_bytes = tail_bytes
        elif tail_lines is not None:
            request.tail_lines = tail_lines
        elif since is not None:
            request.since = since
        else:
            request.offset = offset
        output = OutputStream(self, request)
        try:
            yield output
        finally:
            await output.aclose()

    @asynccontextmanager
    async def attach(
        self,
        job_id: str,
        *,
        offset: int = 0,
        tail_bytes: int | None = None,
        tail_lines: int | None = None,
        take_over: bool = False,
        size: tuple[int, int] | None = None,
    ) -> AsyncIterator[Attachment]:
        """Attach to a job that has a stdin to write to, or a terminal; see :class:`api.attachment.Attachment`. The
        block begins when the job has started. Leaving it detaches: the job goes on, and its stdin stays open.

        Args:
            offset, tail_bytes, tail_lines: where in the output to begin, as for :meth:`stream`.
            take_over: end the attachment of somebody else.
            size: rows and columns that the job's terminal is to have.

        Raises:
            FailedPreconditionError: it has no stdin to write to, it has ended, or somebody else is attached (its
                ``reason`` says which: NOT_ATTACHABLE, JOB_ENDED, ALREADY_ATTACHED).
            PermissionDeniedError: the job runs as a user whom we may run no jobs as (USER_FORBIDDEN).
        """
        request = StreamRequest(job_id=job_id)
        if tail_bytes is not None:
            request.tail_bytes = tail_bytes
        elif tail_lines is not None:
            request.tail_lines = tail_lines
        else:
            request.offset = offset
        attachment = Attachment(self, request, take_over=take_over, size=size)
        try:
            await attachment.begin()
            yield attachment
        finally:
            await attachment.aclose()

    # ---- the connection

    async def channel(self) -> Channel:
        """An open connection: to the server that was used last, or else to the next that can be reached."""
        last = self._channels.get(self._addresses[0])
        if last and last.usable:
            return last
        async with self._connecting:
            for left in reversed(range(len(self._addresses))):
                address = self._addresses[0]
                if address in self._channels and self._channels[address].usable:
                    break
                try:
                    self._channels[address] = await self._nursery.start(self._hold_channel, address)
                    break
                except UnavailableError:
                    self._addresses.rotate(-1)
                    if not left:
                        raise
            return self._channels[self._addresses[0]]

    async def _hold_channel(self, address: tuple[str, int], task_status: trio.TaskStatus[Channel]) -> None:
        timeout = CONNECT_TIMEOUT if len(self._addresses) == 1 else ONE_OF_SEVERAL
        async with open_channel(*address, self._context, timeout=timeout, trace=self._trace) as channel:
            task_status.started(channel)
            await channel.lost()

    def avoid(self, channel: Channel) -> None:
        """The server at its other end cannot answer now: ask the next one first, if there is another."""
        if self._channels.get(self._addresses[0]) is channel:  # else somebody has done so already
            self._addresses.rotate(-1)

    async def _call(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> Response:
        retry = Retry(self.retry_for)
        while True:
            channel = None
            try:
                channel = await self.channel()
                return await channel.unary(method, request, timeout=timeout)
            except RpcError as exc:
                if channel and isinstance(exc, UnavailableError):
                    self.avoid(channel)
                if not (may_retry(exc) and await retry.pause(exc.retry_after)):
                    raise
