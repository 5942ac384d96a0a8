"""The server's side of the socket to the launcher, with a launcher that the test plays."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from jobd.launcher import protocol
from jobd.launcher.link import LauncherLink, open_link
from jobd.limits.isolation import Bubblewrap
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.worker.containment import Limits
from jobd.worker.errors import LaunchError
from jobd.worker.isolation import SANDBOXED, Isolation, Means
from jobd.worker.job import Job, JobCell, JobSpec, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.stdin import StdinMode, Terminal
from jobd.worker.supervisor import Timings
from jobd.worker.worker import Worker
from tests.support.patience import patient


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process can open nothing more; what is sent to it with a message is cut off."""
    free = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class PlayedLauncher:
    """The launcher's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def tell(self, op: str, fds: list[int] | None = None, **fields: Any) -> None:
        protocol.send(self._sock, {"op": op, **fields}, fds)

    async def hear(self) -> dict[str, Any]:
        while True:
            with contextlib.suppress(BlockingIOError):
                heard = protocol.receive(self._sock)
                assert heard is not None
                for fd in heard[1]:
                    os.close(fd)
                return heard[0]
            await trio.lowlevel.wait_readable(self._sock)


async def test_an_older_launcher_is_given_no_job_that_needs_a_stdin(tmp_path: Path) -> None:
    """It would start it with none, and without a word."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    with theirs:
        launcher.tell("hello", version=protocol.FEEDS - 1, launcher="boot/1", kept=[], end=False)
        launcher.tell("known")
        async with open_link(ours.detach(), Walk()) as link:
            for spec in (
                JobSpec(("cat",), stdin=StdinMode.PIPE),
                JobSpec(("cat",), stdin_data=b"x"),
                JobSpec(("cat",), terminal=Terminal(24, 80)),
            ):
                with pytest.raises(LaunchError, match="older"):
                    await link.launch(str(uuid.uuid4()), spec)


async def test_descriptors_that_do_not_arrive_cost_one_job(
    tmp_path: Path, errors_expected: object, log_guard: list[EventDict]
) -> None:
    """Near the limit of descriptors the kernel cuts off those that come with a message: the process cannot be
    supervised, so it is ended, and its exit is acknowledged. The server goes on."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    job = Job(str(uuid.uuid4()), JobSpec(("true",)), State.PENDING, 1).moved(Event.ASSIGNED, worker="local")
    pipes = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)]
    launcher.tell("hello", version=protocol.VERSION, launcher="boot/1", kept=[], end=False)
    launcher.tell("known")
    with trio.fail_after(patient(30)):
        await supervise_without_descriptors(launcher, ours, job, pipes, tmp_path)
    for fd in pipes:
        os.close(fd)
    theirs.close()
    errors = [entry["event"] for entry in log_guard if entry["log_level"] == "error"]
    assert errors == ["the supervision of a job failed"]


async def supervise_without_descriptors(
    launcher: PlayedLauncher, ours: socket.socket, job: Job, pipes: list[int], output: Path
) -> None:
    async with open_link(ours.detach(), Walk()) as link, trio.open_nursery() as nursery:
        worker = Worker(nursery, link, LogStore(output), timings=Timings(5.0, 0.3, 5.0))
        cell = JobCell(job)
        worker.begin(cell, trio.Event())
        assert (await launcher.hear())["op"] == "launch"
        with no_descriptors_left():
            facts = {"id": job.id, "pid": 4_000_000, "started_at": 2, "status": None}
            launcher.tell("launched", [pipes[0], pipes[2]], **facts)
            assert await launcher.hear() == {"op": "signal", "id": job.id, "signal": signal.SIGTERM}
        assert await launcher.hear() == {"op": "signal", "id": job.id, "signal": signal.SIGCONT}
        launcher.tell("exited", id=job.id, status=signal.SIGTERM)
        ended = await cell.ended()
        assert (ended.state, ended.reason, ended.signal) == (State.LOST, Reason.SUPERVISOR_FAILED, signal.SIGTERM)
        assert await launcher.hear() == {"op": "release", "id": job.id}
        await is_alive(link)
        nursery.cancel_scope.cancel()


async def is_alive(link: LauncherLink) -> None:
    """The link still carries what is said."""
    await trio.testing.wait_all_tasks_blocked()
    assert not link.gone.is_set()


async def test_nothing_is_asked_of_an_older_launcher_that_it_would_ignore(tmp_path: Path) -> None:
    """One that was started before this server was installed: a job that is to be isolated is not started."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    launcher.tell("hello", version=protocol.ISOLATES - 1, launcher="boot/1", kept=[], end=False)
    launcher.tell("known")
    async with open_link(ours.detach(), Walk(), Means(Bubblewrap("bwrap"))) as link:
        assert link.means.available == ["allow_new_privileges"]
        for flag in (*SANDBOXED, "drop_capabilities"):
            with pytest.raises(LaunchError, match="the launcher is older") as caught:
                await link.launch("id", JobSpec(("true",), isolation=Isolation(**{flag: True})))
            assert caught.value.reason == Reason.ISOLATION_FAILED
        with pytest.raises(LaunchError, match="cannot be given its I/O class: the launcher is older"):
            await link.launch("id", JobSpec(("true",), limits=Limits(io_class=1)))
    assert protocol.receive(theirs) is None  # it was asked for nothing
    theirs.close()


async def test_what_was_to_be_said_is_said_before_the_end(tmp_path: Path) -> None:
    """Though the launcher listens late: it would else remember jobs for ever that nobody asks for any more."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    launcher.tell("hello", version=protocol.VERSION, launcher="boot/1", kept=[], end=False)
    launcher.tell("known")
    ids = [str(number) for number in range(3000)]

    async def server() -> None:
        async with open_link(ours.detach(), Walk()) as link:
            for job_id in ids:
                link.forget(job_id)

    with trio.fail_after(patient(30)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server)
            await trio.testing.wait_all_tasks_blocked()  # the socket is full, and the server at its end
            assert [(await launcher.hear())["id"] for _ in ids] == ids
    theirs.close()


async def test_a_launcher_that_does_not_know_of_users_is_given_no_such_job() -> None:
    """It would run the job as its own user. One that needs neither user nor umask is launched."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    launcher.tell("hello", version=protocol.RUNS_AS_OTHERS - 1, launcher="boot/1", kept=[], end=False)
    launcher.tell("known")
    with trio.fail_after(patient(30)):
        async with open_link(ours.detach(), Walk()) as link, trio.open_nursery() as nursery:
            for spec in (JobSpec(("true",), umask=0), JobSpec(("true",), user=stranger())):
                with pytest.raises(LaunchError, match="the launcher is older than this server"):
                    await link.launch("job", spec)
            nursery.start_soon(link.launch, "plain", JobSpec(("true",)))
            heard = await launcher.hear()
            assert (heard["op"], heard["id"]) == ("launch", "plain")
            nursery.cancel_scope.cancel()
    theirs.close()


def stranger() -> str:
    """A user that does not run this test."""
    return next(each.pw_name for each in pwd.getpwall() if each.pw_uid != os.geteuid())


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no job's, and leads a session of its own."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("told_at_once", [True, False])
async def test_who_has_the_number_of_an_ended_job_is_left_alone(
    somebody: subprocess.Popen[bytes], told_at_once: bool
) -> None:
    """A launcher remembers an end for as long as no server is there, and by then its number can be a stranger's."""
    ours, theirs = protocol.pair()
    launcher = PlayedLauncher(theirs)
    facts = {"id": "job", "pid": somebody.pid, "started_at": 1, "status": 0 if told_at_once else None}
    out, err = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    launcher.tell("hello", version=protocol.VERSION, launcher="boot/1", kept=[], end=False)
    launcher.tell("job", [out[0], err[0]], **facts)
    launcher.tell("known")
    with trio.fail_after(patient(30)):
        async with open_link(ours.detach(), Walk()) as link:
            process = link.take_adopted("job")
            assert process
            if not told_at_once:
                launcher.tell("exited", id="job", status=0)
            assert await process.exited() == 0
            empty, members = await process.is_empty(), await process.members()
            await process.kill()
    assert (empty, members, somebody.poll()) == (True, [], None)
    protocol.close_all([*out, *err])
    theirs.close()
