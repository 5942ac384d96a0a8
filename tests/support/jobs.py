"""Small helpers around jobs in tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from jobd.output.log import Log
from jobd.worker.job import JobSpec
from jobd.worker.ports import Follower, Gap, Record, Source
from jobd.worker.worker import Worker


def shell(script: str, **fields: object) -> JobSpec:
    """A job that is a shell script."""
    return JobSpec(("sh", "-c", script), **fields)  # type: ignore[arg-type] # the caller's fields are JobSpec's


async def collect(follower: Follower) -> dict[Source, bytes]:
    """All that a follower gives, by stream. Asserts that there is no gap and no overlap."""
    out = {Source.STDOUT: b"", Source.STDERR: b""}
    expected: int | None = None
    try:
        while records := await follower.receive():
            for record in records:
                if isinstance(record, Gap):
                    continue
                assert expected is None or record.offset == expected
                expected = record.end
                out[record.source] += record.data
    finally:
        follower.close()
    return out


async def until_output(worker: Worker, job_id: str, wanted: bytes) -> None:
    """Wait until the job has written something."""
    follower = await worker.stream(job_id)
    seen = b""
    try:
        while wanted not in seen:
            records = await follower.receive()
            assert records, f"the job ended without writing {wanted!r}; it wrote {seen!r}"
            seen += b"".join(record.data for record in records if isinstance(record, Record))
    finally:
        follower.close()


def new_mark() -> str:
    """A text for a job's environment that no other test's jobs have: tests run next to each other."""
    return f"mark-{uuid.uuid4()}"


def processes_with(mark: str) -> list[int]:
    """The live processes that have an environment variable whose value, or whose name and value, is this."""
    wanted = mark.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            marked = any(wanted in (each, each.partition(b"=")[2]) for each in environ.split(b"\0"))
            if marked and state not in "ZX" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def processes_called(text: str) -> list[int]:
    """The live processes whose command line has this text: also those that cleared their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()  # nothing is left of a zombie's
            except OSError:
                continue
            if text.encode() in words:
                found.append(int(entry.name))
    return found


async def until_called(names: Sequence[str], pids: Callable[[], Sequence[int]]) -> None:
    """Wait until these are what the processes are called (proc(5), comm): what is forked becomes another by and by."""
    while sorted(map(_name_of, pids())) != sorted(names):
        await trio.sleep(0.005)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""  # it has ended


async def put(log: Log, source: Source, data: bytes) -> None:
    """Have a log take bytes, out of a pipe as from a job."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            count = os.write(writing, view[:65536])
            view = view[count:]
            assert await log.take(source, reading)
    finally:
        os.close(reading)
        os.close(writing)
