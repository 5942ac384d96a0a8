"""jobd as somebody has it who has installed it: in an environment of its own, without a checkout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.patience import patient

SECONDS = patient(60)
"""No program here may take longer."""


def environment(home: Path, *first: Path) -> dict[str, str]:
    """Nothing of the developer's own but how packages are had; ``first`` comes first in PATH."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "UV_"))}
    paths = [*map(str, first), "/usr/local/bin", "/usr/bin", "/bin"]
    return {**kept, "PATH": os.pathsep.join(paths), "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}


def run(*command: str | Path, cwd: Path, env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; asserts that this is 0, unless ``status`` says another."""
    status = options.pop("status", 0)
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


@dataclass(frozen=True)
class Installed:
    """A virtual environment, and a home to work in.

    Attributes:
        prefix: the environment.
        home: a directory that is neither in it nor in a checkout.
    """

    prefix: Path
    home: Path

    @classmethod
    def make(cls, directory: Path, *requirements: list[str | Path]) -> Installed:
        """A new environment, with each list of arguments given to ``pip install``, one after another."""
        made = cls(directory / "environment", directory / "home")
        made.home.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", made.prefix], check=True)
        for arguments in requirements:
            made.run("python", "-m", "pip", "install", "--quiet", *arguments, timeout=300)
        return made

    @property
    def share(self) -> Path:
        return self.prefix / "share"

    def environment(self) -> dict[str, str]:
        """What its programs are run with."""
        return environment(self.home, self.prefix / "bin")

    def run(self, program: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, as :func:`run` does."""
        options = {"cwd": self.home, "env": self.environment(), "timeout": SECONDS, **options}
        return run(self.prefix / "bin" / program, *arguments, **options)

    @contextmanager
    def jobd(self, *arguments: str | Path) -> Iterator[str]:
        """A running jobd; gives its address. Ends in order, and asserts that."""
        with (
            (self.home / "jobd.log").open("w") as log,
            subprocess.Popen(
                [self.prefix / "bin" / "jobd", *arguments],
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process,
        ):
            watchdog = threading.Timer(SECONDS, process.kill)
            watchdog.start()
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                assert ready.startswith("jobd is listening on "), (self.home / "jobd.log").read_text()
                yield ready.split()[-1]
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=SECONDS)
                watchdog.cancel()
                watchdog.join()
            assert process.returncode == 0, (self.home / "jobd.log").read_text()
