"""The Python client: typed calls, and output streams that resume by themselves.

    async with JobClient.connect("localhost:50051", cert="alice.crt", key="alice.key", ca="ca.crt") as jobs:
        job = await jobs.start(["make", "-j2"], cwd="/srv/project")
        async with jobs.stream(job.id) as output:
            async for chunk in output:
                sys.stdout.buffer.write(chunk.data)
        print(output.verdict)

Needs trio. Calls that fail because the server cannot be reached are made again, with growing pauses, until
``retry_for`` seconds have passed; that is safe for all of them (a Start carries a request id).
"""

from __future__ import annotations

import os
import random
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

import betterproto
import trio

from api import methods
from api.address import parse_address
from api.background import background_nursery
from api.errors import FieldViolation, InvalidArgumentError, StreamCutError, UnavailableError
from api.messages import (
    DeleteRequest,
    Gap,
    Heartbeat,
    Isolation,
    Job,
    JobSpec,
    JobState,
    Limits,
    ListRequest,
    ListWorkersRequest,
    ListWorkersResponse,
    Output,
    OutputSource,
    QueryRequest,
    SignalRequest,
    StartRequest,
    StopMode,
    StopRequest,
    StreamRequest,
    StreamResponse,
    Verdict,
    WaitMode,
    WaitRequest,
)
from api.methods import Method, Request, Response
from api.rpc.channel import Answers, Channel, open_channel
from api.tls import client_context

RETRY_FOR: Final = 30.0
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class JobClient:
    """A client of one server. Many tasks may use it at once; they share one connection. Made by :meth:`connect`."""

    def __init__(self, nursery: trio.Nursery, host: str, port: int, context: ssl.SSLContext, retry_for: float) -> None:
        self._nursery = nursery
        self._host, self._port, self._context = host, port, context
        self.retry_for = retry_for
        self._channel: Channel | None = None
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
    ) -> AsyncIterator[Self]:
        """Read the credentials; the connection is made by the first call, and made anew when it was lost.

        Args:
            server: ``HOST:PORT``.
            cert, key: the client's certificate and private key (PEM files).
            ca: the certificate of the CA that signed the server's (PEM file).
            key_passphrase_file: a file whose first line opens the private key, if that is encrypted.
            retry_for: seconds for which a call, or an interrupted stream, tries to reach the server again;
                0 for one try only.

        Raises:
            ConfigError: the address or a file cannot be used.
        """
        host, port = parse_address(server)
        passphrase = None if key_passphrase_file is None else Path(key_passphrase_file)
        context = client_context(certificate=Path(cert), key=Path(key), ca=Path(ca), passphrase=passphrase)
        async with background_nursery() as nursery:
            yield cls(nursery, host, port, context, retry_for)

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
        request_id: str | None = None,
    ) -> Job:
        """Start a process. A job that could not be started comes back in the state START_FAILED.

        Args:
            limits: what it may use, beside what the server is set to.
            user, group: whom it runs as, by name; the server's job user, and the user's own group, when "".
            umask: its file mode creation mask; 0o022 when None.
            secrets: environment variables whose values no answer shows.
            isolation: what keeps it from the machine and from other jobs.
            request_id: the name under which the request is safe to send again; a new one is made by default.

        Raises:
            RpcError: as the server answered.
        """
        spec = JobSpec(argv=list(argv), name=name, env=dict(env or {}), cwd=cwd, limits=limits, isolation=isolation)
        spec.user, spec.group, spec.umask, spec.secret_env = user, group, umask, dict(secrets or {})
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

    # ---- the connection

    async def channel(self) -> Channel:
        """The open connection, made anew when the last one was lost."""
        async with self._connecting:
            if self._channel is None or not self._channel.usable:
                self._channel = await self._nursery.start(self._hold_channel)
            return self._channel

    async def _hold_channel(self, task_status: trio.TaskStatus[Channel]) -> None:
        async with open_channel(self._host, self._port, self._context) as channel:
            task_status.started(channel)
            await channel.lost()

    async def _call(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> Response:
        retry = Retry(self.retry_for)
        while True:
            try:
                channel = await self.channel()
                return await channel.unary(method, request, timeout=timeout)
            except UnavailableError:
                if not await retry.pause():
                    raise


class OutputStream:
    """A job's output, byte for byte, through every loss of the connection.

    Attributes:
        offset: of the first byte that was not given yet, once that is known; a later stream can begin there.
        gaps: what could not be recorded, so far.
        verdict: how the job ended, once the iteration is over.
    """

    def __init__(self, client: JobClient, request: StreamRequest) -> None:
        self._client = client
        self._request = request
        self.gaps: list[Gap] = []
        self._busy = False
        self.verdict: Verdict | None = None
        self._call = AsyncExitStack()
        self._answers: Answers[StreamResponse] | None = None
        self._retry = Retry(client.retry_for)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        """The next piece of output; the iteration ends with the verdict.

        Raises:
            StreamCutError: the stream ended without its verdict, and could not be taken up again in time.
            RpcError: the server refused (NotFoundError, PermissionDeniedError, …).
        """
        if self._busy:
            raise trio.BusyResourceError("another task is reading this stream")
        self._busy = True
        try:
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Output:
        while self.verdict is None:
            answer = await self._receive()
            _, event = betterproto.which_one_of(answer, "event")
            if isinstance(event, Output):
                self._request.offset = event.offset + len(event.data)  # a stream that is cut goes on from here
                return event
            if isinstance(event, Heartbeat):
                self._request.offset = event.offset
            if isinstance(event, Gap):
                self.gaps.append(event)
            if isinstance(event, Verdict):
                self.verdict = event
        raise StopAsyncIteration

    @property
    def offset(self) -> int:
        field, value = betterproto.which_one_of(self._request, "start")
        return value if field == "offset" and isinstance(value, int) else 0

    async def _receive(self) -> StreamResponse:
        while True:
            try:
                if self._answers is None:
                    self._answers = await self._begin()
                answer = await self._answers.receive()
            except UnavailableError as exc:
                await self._break_off()
                if not await self._retry.pause():
                    raise StreamCutError(
                        f"the output stream was cut at offset {self.offset}: {exc}", offset=self.offset
                    ) from exc
                continue
            if answer is None:
                raise StreamCutError(
                    f"the output stream ended at offset {self.offset} without a verdict", offset=self.offset
                )
            self._retry.reset()
            return answer

    async def _begin(self) -> Answers[StreamResponse]:
        channel = await self._client.channel()
        return await self._call.enter_async_context(channel.call(methods.STREAM, self._request))

    async def _break_off(self) -> None:
        self._answers = None
        await self._call.aclose()

    async def aclose(self) -> None:
        """Give the stream up. Harmless when it has ended."""
        await self._break_off()


class Retry:
    """Growing, jittered pauses for a limited time."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Something succeeded: the time that is left is the whole limit again."""
        self._until = -1.0
        self._pause = FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait a little. False, at once, when the time is up."""
        now = trio.current_time()
        if self._until < 0:
            self._until = now + self._limit
        if now >= self._until:
            return False
        await trio.sleep(min(self._pause * random.uniform(0.5, 1.0), self._until - now))  # noqa: S311 # jitter, not a secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True
