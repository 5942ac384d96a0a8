"""A machine runs: qemu, with the kernel's virtualization where that works, else all in software (slow)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.machine.guest import WISH

OPTIONS: Final = (
    *("-smp", "2", "-m", "3072", "-nographic", "-nodefaults", "-no-reboot", "-nic", "none", "-monitor", "none"),
    *("-cpu", "max,la57=off"),
)
ARGUMENTS: Final = (
    "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check "
    "systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all systemd.show_status=1"
)
"""For the kernel: control groups of version 2 and no others; the processors' own clock, which qemu keeps in step (each
look at another one leaves the emulated processor, and everything looks at it all the time); and no panic when an
interrupt of the timer comes late, as on a busy machine."""
KVM: Final = "kvm"
SOFTWARE: Final = "tcg,thread=multi"
FIRST_WORD: Final = 20.0
"""Seconds until the kernel has said something where the accelerator works; some have a /dev/kvm that does not."""
POLL: Final = 0.2
TRIES: Final = 3
"""Of starting a machine."""


class MachineError(Exception):
    """It did not run to its end."""


@dataclass(frozen=True)
class Machine:
    """What machines are made of; each writes to a copy of the disk, which is nobody's afterwards.

    Attributes:
        kernel: the kernel, and its first file system.
        directory: for what they say.
        enough: when set, they end.
    """

    disk: Path
    kernel: tuple[Path, Path]
    directory: Path
    enough: threading.Event = field(default_factory=threading.Event)

    def accelerator(self) -> str:
        """The one that works here."""
        if Path("/dev/kvm").exists():
            with self._process(KVM, "probe", {}) as process:
                console, until = self._file("probe", "console"), time.monotonic() + FIRST_WORD
                while time.monotonic() < until and process.poll() is None:
                    if b"Linux version" in console.read_bytes():
                        return KVM
                    time.sleep(POLL)
        return SOFTWARE

    def run(
        self, accelerator: str, name: str, wish: Mapping[str, Any], limit: float, say: Callable[[str], None]
    ) -> None:
        """Run a machine until it powers itself off; again, when it is one whose clock is wrong.

        Args:
            name: of its files.
            wish: what the guest is to do (``guest.py``).
            limit: seconds that it may take.
            say: is given each line that the guest says, when it says it.

        Raises:
            MachineError: it cannot run here, or took too long.
        """
        for _ in range(TRIES):
            if self._run(accelerator, name, wish, limit, say):
                return
            say(f"machine: {name}: it took a wrong measure of its processors' clock, and is started again")
        raise MachineError(f"its clock was wrong {TRIES} times")

    def _run(
        self, accelerator: str, name: str, wish: Mapping[str, Any], limit: float, say: Callable[[str], None]
    ) -> bool:
        """False when its clock was wrong."""
        until, said = time.monotonic() + limit, self._file(name, "said")
        said.write_text("")
        with self._process(accelerator, name, wish) as process, said.open("rb") as lines:
            rest = b""
            while not self.enough.is_set():
                ended = process.poll() is not None
                if accelerator == SOFTWARE and said.stat().st_size and not self._has_measured(name):
                    return False
                *whole, rest = (rest + lines.read()).split(b"\n")
                for line in [*whole, *([rest] if ended and rest else [])]:
                    say(line.decode(errors="replace").strip("\r"))
                if ended:
                    break
                if time.monotonic() > until:
                    raise MachineError(f"it took more than the {limit:.0f} s that it may, and was ended")
                time.sleep(POLL)
        if self.enough.is_set():
            raise MachineError("it was told to end")
        if not said.read_bytes():
            raise MachineError(f"it did not run: {self._end_of_console(name)}")
        return True

    def _has_measured(self, name: str) -> bool:
        """The kernel has measured the clock twice, with about the same result. On a busy host, the first measure alone
        can be off by a factor of twenty, and all times with it."""
        return b"tsc: Refined TSC clocksource calibration" in self._file(name, "console").read_bytes()

    @contextmanager
    def _process(self, accelerator: str, name: str, wish: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        """A process of qemu, ended with the block."""
        console, said = self._file(name, "console"), self._file(name, "said")
        wished = base64.urlsafe_b64encode(json.dumps(wish).encode()).decode()
        command = ["qemu-system-x86_64", "-accel", accelerator, *OPTIONS]
        command += ["-drive", f"file={self.disk},format=raw,if=virtio,cache=unsafe,snapshot=on"]
        command += ["-kernel", str(self.kernel[0]), "-initrd", str(self.kernel[1])]
        command += ["-append", f"{ARGUMENTS} {WISH}={wished}"]
        command += ["-serial", f"file:{console}", "-serial", f"file:{said}"]
        console.write_text("")
        environment = {**os.environ, "TMPDIR": str(self.directory)}  # what it writes to the disk
        with self._file(name, "qemu").open("wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _file(self, name: str, kind: str) -> Path:
        return self.directory / f"{kind}-{name}"

    def _end_of_console(self, name: str) -> str:
        texts = [self._file(name, kind).read_text(errors="replace") for kind in ("qemu", "console")]
        return "".join("".join(texts).splitlines(keepends=True)[-20:])
