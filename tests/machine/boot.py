"""A machine runs: qemu, with the kernel's virtualization where that works, else all in software (slow)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

OPTIONS: Final = (
    *("-smp", "2", "-m", "4096", "-nographic", "-nodefaults", "-no-reboot", "-nic", "none", "-monitor", "none"),
    *("-cpu", "max,la57=off"),
)
ARGUMENTS: Final = (
    "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off "
    "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all systemd.show_status=1"
)
"""For the kernel: control groups of version 2 and no others."""
ACCELERATORS: Final = ("kvm", "tcg,thread=multi")
FIRST_WORD: Final = 20.0
"""Seconds until the kernel has said something where the accelerator works; some have a /dev/kvm that does not."""
POLL: Final = 0.2


class MachineError(Exception):
    """It did not run to its end."""


def boot(disk: Path, kernel: tuple[Path, Path], directory: Path, limit: float) -> str:
    """Run a machine until it powers itself off; prints what its tests say meanwhile, and gives all of it.

    Args:
        kernel: the kernel, and its first file system.
        limit: seconds that it may take.

    Raises:
        MachineError: it cannot run here, or took too long.
    """
    until = time.monotonic() + limit
    console, said = directory / "console", directory / "said"
    for accelerator in ACCELERATORS:
        if accelerator == "kvm" and not Path("/dev/kvm").exists():
            continue
        said.write_text("")
        with _machine(accelerator, disk, kernel, console, said) as process:
            if not _speaks(process, console):
                print(f"machine: with {accelerator} its kernel says nothing", flush=True)
                continue
            print(f"machine: it runs, with {accelerator}", flush=True)
            _follow(process, said, until)
            return said.read_text(errors="replace")
    raise MachineError(f"no machine can be run here: {_end_of(console)}")


@contextmanager
def _machine(
    accelerator: str, disk: Path, kernel: tuple[Path, Path], console: Path, said: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of qemu, ended with the block."""
    command = ["qemu-system-x86_64", "-accel", accelerator, *OPTIONS]
    command += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    command += ["-kernel", str(kernel[0]), "-initrd", str(kernel[1]), "-append", ARGUMENTS]
    command += ["-serial", f"file:{console}", "-serial", f"file:{said}"]
    console.write_text("")
    with console.with_suffix(".qemu").open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _speaks(process: subprocess.Popen[bytes], console: Path) -> bool:
    until = time.monotonic() + FIRST_WORD
    while time.monotonic() < until and process.poll() is None:
        if b"Linux version" in console.read_bytes():
            return True
        time.sleep(POLL)
    return False


def _follow(process: subprocess.Popen[bytes], said: Path, until: float) -> None:
    with said.open("rb") as lines:
        while True:
            ended = process.poll() is not None
            print(lines.read().decode(errors="replace").replace("\r", ""), end="", flush=True)
            if ended:
                return
            if time.monotonic() > until:
                raise MachineError("it took too long, and was ended")
            time.sleep(POLL)


def _end_of(console: Path) -> str:
    errors = console.with_suffix(".qemu").read_text(errors="replace")
    return "".join((errors + console.read_text(errors="replace")).splitlines(keepends=True)[-20:])
