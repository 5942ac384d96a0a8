"""Small disks that fill up or fail, mounted by tests that run as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.patience import patient

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small file system")
needs_ext4 = pytest.mark.skipif(
    not (shutil.which("mkfs.ext4") and Path("/dev/loop-control").exists()),
    reason="needs mkfs.ext4 and a loop device: it mounts a file system that goes read-only",
)
needs_strace = pytest.mark.skipif(
    not (shutil.which("strace") and os.geteuid() == 0),
    reason="needs strace and root: it lets system calls fail",
)


@contextmanager
def small_disk(path: Path, size: str = "4m", options: str = "rw") -> Iterator[Path]:
    """A tmpfs of this size."""
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700,{options}", "none", str(path))
    with _mounted(path):
        yield path


@contextmanager
def loop_disk(path: Path) -> Iterator[Path]:
    """An ext4 of 8 MiB in a file."""
    path.mkdir()
    image = path.with_name("image")
    image.touch()
    os.truncate(image, 8 * 2**20)
    _run("mkfs.ext4", "-q", "-F", str(image))
    _run("mount", "-o", "loop,errors=remount-ro", str(image), str(path))
    with _mounted(path):
        path.chmod(0o700)
        yield path


def fail(path: Path) -> None:
    """Let an ext4 do what it does after an error of the disk: it is read-only at once, also for files open to write."""
    _run("mount", "-o", "remount,abort", str(path))


def fill(path: Path) -> Path:
    """Use up all the room of a file system; the file that does so is returned."""
    filler = path / "filler"
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@contextmanager
def _mounted(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _run("umount", "--lazy", str(path))  # somebody who failed the test may hold it


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def system_calls_fail(pid: int, *injections: str) -> Iterator[None]:
    """Let system calls of a process fail, as in ``pwrite64:error=EIO``, for as long as the block lasts."""
    calls = ",".join(each.partition(":")[0] for each in injections)
    arguments = [text for each in injections for text in ("-e", f"inject={each}")]
    with subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-e", f"trace={calls}", *arguments, "-o", os.devnull],
        stderr=subprocess.PIPE,
        text=True,
    ) as strace:
        try:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if "attached" not in said:
                pytest.skip(f"needs to trace another process: {said.strip()}")
            yield
        finally:
            strace.terminate()
            strace.communicate(timeout=patient(20))
