"""Makes machines and runs them: ``nox -s machine [-- --release R --only GROUP -- OPTIONS OF PYTEST]``; many minutes.

Each group of tests (``guest.py``) has a machine of its own, some of them at the same time. Ends with 1 when a test
failed, or one was skipped that the machine was made for; the last lines say what each group did.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.machine import guest
from tests.machine.boot import Machine, MachineError
from tests.machine.guest import Group
from tests.machine.image import PYTHONS, MissingError, kernel, make_disk, what_is_missing

AT_ONCE: Final = 2
"""Machines, each with two processors; the tests wait for much."""

_turn = threading.Lock()


def say(group: str, line: str) -> None:
    """A line, and whose it is."""
    with _turn:
        print(f"{group}: {line}", flush=True)


def run_group(machine: Machine, accelerator: str, group: Group, options: Sequence[str]) -> tuple[bool, str]:
    """Run one; whether all was well, and what it did."""
    begun = time.monotonic()
    wish = {"group": group.name, "options": options}
    try:
        said = machine.run(
            accelerator, f"{machine.disk.name}-{group.name}", wish, group.limit, lambda line: say(group.name, line)
        )
    except MachineError as exc:
        return False, str(exc)
    lines = said.replace("\r", "").splitlines()
    told = [line.removeprefix(guest.DID) for line in lines if line.startswith(guest.DID)]
    return guest.WELL in lines, f"{'; '.join(told) or 'it says nothing'} ({time.monotonic() - begun:.0f} s in all)"


def run(directory: Path, release: str, groups: Sequence[Group], options: Sequence[str], at_once: int) -> bool:
    """Make the machines and run them; whether all was well."""
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("machine: told to end"))
    try:
        disk = make_disk(directory, release)
    except (MissingError, subprocess.CalledProcessError) as exc:
        sys.exit(f"machine: {exc}")
    machine = Machine(disk, kernel(directory, release), directory)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: machine.enough.set())
    accelerator = machine.accelerator()
    say("machine", f"{release}, with {accelerator}, {at_once} at once; made in {time.monotonic() - begun:.0f} s")
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(run_group, machine, accelerator, group, options) for group in groups]
        ends = [each.result() for each in running]
    for group, (well, did) in zip(groups, ends, strict=True):
        say("machine", f"{release}: {group.name}: {'well' if well else 'NOT WELL'}: {did}")
    all_well = all(well for well, _ in ends)
    say(
        "machine", f"{release}: {'all was well' if all_well else 'not all was well'} ({time.monotonic() - begun:.0f} s)"
    )
    return all_well


def main() -> None:
    names = [each.name for each in guest.GROUPS]
    parser = argparse.ArgumentParser(prog="python -m tests.machine")
    parser.add_argument("--release", choices=PYTHONS, default="bookworm", help="of Debian")
    parser.add_argument("--only", action="append", default=[], choices=names, help="this group (more than once: these)")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="so many machines at the same time")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make it in DIR, and use what is there again")
    parser.add_argument("options", nargs="*", help="more for pytest, after --")
    arguments = parser.parse_args()
    if lacking := what_is_missing():
        sys.exit(f"machine: cannot be made here: {lacking}")
    groups = [each for each in guest.GROUPS if each.name in arguments.only or not arguments.only]
    with tempfile.TemporaryDirectory(prefix="jobd-machine-") as name:
        directory = arguments.keep or Path(name)
        directory.mkdir(exist_ok=True)
        well = run(directory, arguments.release, groups, arguments.options, arguments.at_once)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
