"""Makes the machine and runs it: ``nox -s machine [-- --release R --only GROUP -- OPTIONS OF PYTEST]``; many minutes.

Ends with 1 when a test failed, or one was skipped that the machine was made for.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.machine import guest
from tests.machine.boot import MachineError, boot
from tests.machine.image import PYTHONS, MissingError, kernel, make_disk, what_is_missing

LIMIT: Final = 3600.0
"""Seconds that the machine may take; without virtualization it is ten times as slow."""


def run(directory: Path, release: str, wish: Mapping[str, Any]) -> str:
    """Make a machine and run it; gives what was wrong, "" if nothing was."""
    try:
        disk = make_disk(directory, release, wish)
        said = boot(disk, kernel(directory, release), directory, LIMIT)
    except (MachineError, MissingError, subprocess.CalledProcessError) as exc:
        return str(exc)
    return "" if guest.DONE in said.splitlines() else "not all was well"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machine")
    parser.add_argument("--release", choices=PYTHONS, default="bookworm", help="of Debian")
    parser.add_argument("--only", action="append", default=[], choices=[each.name for each in guest.GROUPS])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make it in DIR, and use what is there again")
    parser.add_argument("options", nargs="*", help="more for pytest, after --")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("machine: told to end"))  # and the machine with us
    if lacking := what_is_missing():
        sys.exit(f"machine: cannot be made here: {lacking}")
    with tempfile.TemporaryDirectory(prefix="jobd-machine-") as name:
        directory = arguments.keep or Path(name)
        directory.mkdir(exist_ok=True)
        wrong = run(directory, arguments.release, {"only": arguments.only, "options": arguments.options})
    sys.exit(f"machine: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main()
