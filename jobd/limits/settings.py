"""A job's limits, and what it used, as files of control groups of either version."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from jobd.worker.containment import Limits, Usage

PIECE: Final = 64 * 1024
AGAIN: Final = 10.0
"""Seconds for which it is believed what a hierarchy counts."""
PERIOD: Final = 100_000
"""Microseconds over which the share of processors is measured."""
V1_IO: Final = "blkio.throttle.io_service_bytes_recursive"
V1_SHARES_OF_100: Final = 1024
"""cpu.shares of a group that has what others have."""


def settings(limits: Limits, controllers: frozenset[str], version: int) -> Iterator[tuple[str, str]]:
    """The files to write in a group of a hierarchy with these controllers, in this order."""
    if limits.memory and "memory" in controllers:
        yield from _memory(limits.memory, version)
    if limits.cpus and "cpu" in controllers:
        quota = max(1000, round(limits.cpus * PERIOD))
        if version == 2:
            yield "cpu.max", f"{quota} {PERIOD}"
        else:
            yield "cpu.cfs_period_us", str(PERIOD)
            yield "cpu.cfs_quota_us", str(quota)
    if limits.cpu_weight and "cpu" in controllers:
        if version == 2:
            yield "cpu.weight", str(limits.cpu_weight)
        else:
            yield "cpu.shares", str(max(2, limits.cpu_weight * V1_SHARES_OF_100 // 100))
    if limits.processes and "pids" in controllers:
        yield "pids.max", str(limits.processes)


def _memory(limit: int, version: int) -> Iterator[tuple[str, str]]:
    if version == 2:
        yield "memory.max", str(limit)
        yield "memory.swap.max", "0"
        yield "memory.oom.group", "1"
    else:
        yield "memory.limit_in_bytes", str(limit)
        yield "memory.memsw.limit_in_bytes", str(limit)


OPTIONAL: Final = frozenset({"memory.swap.max", "memory.oom.group", "memory.memsw.limit_in_bytes"})
"""Files that a kernel may lack (no swap accounting, an older one); the limit holds without them."""


def holdable(controllers: frozenset[str]) -> frozenset[str]:
    """The names of the limits that these controllers can hold."""
    names = {"memory": ("memory",), "cpu": ("cpus", "cpu_weight"), "pids": ("processes",)}
    return frozenset(name for controller in controllers for name in names.get(controller, ()))


def usage(groups: Mapping[str, tuple[int, str]]) -> Usage:
    """What a job used.

    Args:
        groups: for each controller the version of its hierarchy and the job's directory in it.
    """
    read, written = _io(groups)
    return Usage(
        cpu=_cpu(groups),
        memory_peak=_peak(groups),
        read=read,
        written=written,
        processes=_number(groups, "pids", "pids.current", "pids.current"),
        processes_peak=_number(groups, "pids", "pids.peak", "pids.peak"),
        out_of_memory=_out_of_memory(groups),
    )


def _cpu(groups: Mapping[str, tuple[int, str]]) -> int | None:
    counted = _number(groups, "cpuacct", "", "cpuacct.usage")
    if counted is None:  # version 2 counts in every group, with no controller at all
        microseconds = _fields(groups, "tree", "cpu.stat").get("usage_usec")
        return None if microseconds is None else microseconds * 1000
    return counted


def _peak(groups: Mapping[str, tuple[int, str]]) -> int | None:
    return _number(groups, "memory", "memory.peak", "memory.max_usage_in_bytes")


def _out_of_memory(groups: Mapping[str, tuple[int, str]]) -> int:
    version, _ = groups.get("memory", (0, None))
    if not version:
        return 0
    return _fields(groups, "memory", "memory.events" if version == 2 else "memory.oom_control").get("oom_kill", 0)


def _io(groups: Mapping[str, tuple[int, str]]) -> tuple[int | None, int | None]:
    """Bytes read and written."""
    if "io" in groups and (text := _text(f"{groups['io'][1]}/io.stat")) is not None:
        words = [word.partition("=") for word in text.split()]
        counts = [(name, int(value)) for name, _, value in words if name in ("rbytes", "wbytes")]
    elif "blkio" in groups and (text := _text(f"{groups['blkio'][1]}/{V1_IO}")) is not None:
        lines = [line.split() for line in text.splitlines()]
        counts = [(line[1], int(line[2])) for line in lines if len(line) == 3]
        if not counts and not counts_io(Path(groups["blkio"][1]).parent):
            return None, None
    else:
        return None, None
    return (
        sum(count for name, count in counts if name in ("rbytes", "Read")),
        sum(count for name, count in counts if name in ("wbytes", "Write")),
    )


def counts_io(directory: Path) -> bool:
    """The kernel counts what is read and written in this hierarchy: some do not, and say 0 of everybody. In the topmost
    group that can be seen somebody has read or written something: nobody may have yet, so it is looked at again."""
    return _counts_io(directory, int(time.monotonic() / AGAIN))


@lru_cache(maxsize=8)
def _counts_io(directory: Path, now: int) -> bool:
    if Path(directory.parent, V1_IO).exists():
        return _counts_io(directory.parent, now)
    return any(len(line.split()) == 3 for line in (_text(f"{directory}/{V1_IO}") or "").splitlines())


def _number(groups: Mapping[str, tuple[int, str]], controller: str, v2: str, v1: str) -> int | None:
    version, directory = groups.get(controller, (0, ""))
    name = {0: "", 1: v1, 2: v2}[version]
    text = _text(f"{directory}/{name}") if name else None
    return int(text) if text is not None else None


def _fields(groups: Mapping[str, tuple[int, str]], controller: str, name: str) -> dict[str, int]:
    _, directory = groups.get(controller, (0, ""))
    lines = [line.split() for line in (_text(f"{directory}/{name}") or "").splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def text_of(path: str) -> str | None:
    """What a file of a control group says; None when there is none. Several are read for each job: no file objects.

    Raises:
        OSError: it is there, and cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        pieces = []
        while piece := os.read(fd, PIECE):
            pieces.append(piece)
        return b"".join(pieces).decode()
    except OSError as exc:
        if exc.errno == errno.ENODEV:  # the group was removed meanwhile
            return None
        raise
    finally:
        os.close(fd)


def _text(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return text_of(path)
    return None
