"""The real ``jobd`` as a program that a test starts, and sees end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import ROOT
from tests.support.patience import patient

SECONDS = patient(20)
"""No program here may take longer to start or to end."""


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Nothing of the developer's own."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TMPDIR": str(home),
        **more,
    }


def with_programs(home: Path) -> dict[str, str]:
    """An environment in which the programs have the names that they have when they are installed."""
    programs = home / "bin"
    programs.mkdir()
    for name, module in {"jobd": "jobd", "jobcli": "jobcli", "jobpki": "pki"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    return clean_environment(home, PATH=f"{programs}:{os.environ['PATH']}")


@contextmanager
def program(
    arguments: list[str], environment: Mapping[str, str], seconds: float = SECONDS
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A jobd with exactly these arguments and variables, and its first line of stdout.

    Args:
        seconds: what all that is done with it may take.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "jobd", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
            watchdog.cancel()
            watchdog.join()


def end(process: subprocess.Popen[str], signum: int = signal.SIGTERM) -> tuple[int, str, str]:
    """Send a signal, and give the exit code and what came on stdout and stderr until the end."""
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def group_is_gone(pgid: int) -> bool:
    """No process of the group is left. Zombies are none: whether init reaps orphans soon is not jobd's business."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == pgid and state not in "ZX":
                return False
    return True
