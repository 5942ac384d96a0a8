"""Makes machines and runs them: ``nox -s machine [-- --release R --only GROUP -- OPTIONS OF PYTEST]``; many minutes.

The groups of tests (``guest.py``) are run in several machines, some of them at the same time. Ends with 1 when a test
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
BOOT: Final = 900.0
"""Seconds that a machine may take beside its groups."""

_turn = threading.Lock()


def say(line: str) -> None:
    """Print a line, of whichever machine it is."""
    with _turn:
        print(line, flush=True)


def run_groups(machine: Machine, accelerator: str, groups: Sequence[Group], options: Sequence[str]) -> list[str]:
    """Run some in a machine; gives what each did, in its own words, and WELL if it was so."""
    name = f"{machine.disk.name}-{groups[0].name}"
    wish = {"groups": [each.name for each in groups], "options": options}
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        say(line)

    try:
        machine.run(accelerator, name, wish, BOOT + sum(each.limit for each in groups), hear)
    except MachineError as exc:
        ended = {line.partition(":")[0] for line in said if guest.DID in line}
        said += [f"{each.name}: {guest.DID}WRONG: {exc}" for each in groups if each.name not in ended]
    return said


def result(group: Group, said: Sequence[str]) -> tuple[bool, str]:
    """Whether all was well with a group, and what it did."""
    own = [line.removeprefix(f"{group.name}: ") for line in said if line.startswith(f"{group.name}: ")]
    did = [line.removeprefix(guest.DID) for line in own if line.startswith(guest.DID)]
    return guest.WELL in own, "; ".join(did) or "it did not say what it did"


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
    say(f"machine: {release}, with {accelerator}, {at_once} at once; made in {time.monotonic() - begun:.0f} s")
    together = [[each for each in some if each in groups] for some in guest.MACHINES]
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(run_groups, machine, accelerator, some, options) for some in together if some]
        said = [line for each in running for line in each.result()]
    results = [result(group, said) for group in groups]
    for group, (well, did) in zip(groups, results, strict=True):
        say(f"machine: {release}: {group.name}: {'well' if well else 'NOT WELL'}: {did}")
    all_well = all(well for well, _ in results)
    how = "all was well" if all_well else "not all was well"
    say(f"machine: {release}: {how} ({time.monotonic() - begun:.0f} s)")
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
