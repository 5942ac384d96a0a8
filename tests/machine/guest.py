"""In the machine: the tests, each group of them in a unit of systemd's, and what came of them, on a serial line.

Every test that is skipped has to be one of those that the group says; else the machine was made for nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.machine.image import TESTED, USER, WISH

DONE: Final = "machine: nothing was wrong"
"""The last line, if that is so."""
CONTAINED: Final = (
    *("-k", "not none"),  # without control groups all is as on any machine
    "tests/unit/jobd/limits",
    "tests/faults/test_contained.py",
    "tests/faults/test_hostile_job.py",
    "tests/faults/test_isolated_ends.py",
    "tests/integration/test_unprivileged.py",
)
"""What depends on control groups."""
NOT_HERE: Final = ("control groups of version 1", "--containment cgroup-v1", "freezer of cgroup v1")
"""Why a test may be skipped in a machine without control groups of version 1."""
PATIENCE: Final = 8
"""Without virtualization a machine is so much slower than ours, or more."""
ENVIRONMENT: Final = f"TMPDIR=/tmp LANG=C.UTF-8 JOBD_TEST_PATIENCE={PATIENCE}"
REPORTS: Final = Path("/var/tmp")


@dataclass(frozen=True)
class Group:
    """Some tests.

    Attributes:
        command: a module, and its arguments.
        properties: of the unit that they run in.
        may_skip: texts, one of which has to be in the reason of each test that is skipped.
    """

    name: str
    command: Sequence[str]
    properties: Sequence[str] = ()
    may_skip: Sequence[str] = ()

    @property
    def report(self) -> Path | None:
        """Where pytest says what became of each test; None if it is another program."""
        return REPORTS / f"{self.name}.xml" if self.command[0] == "pytest" else None


GROUPS: Final = (
    Group("service", ("pytest", "tests/machine")),
    Group("root", ("pytest", *CONTAINED), ("Delegate=yes",), (*NOT_HERE, "needs not to be root")),
    Group("user", ("pytest", *CONTAINED), ("Delegate=yes", f"User={USER}"), (*NOT_HERE, "needs root")),
    Group("matrix", ("tests.faults.matrix", "--kind", "cgroup-v2"), ("Delegate=yes",)),
)


def run(group: Group, options: Sequence[str]) -> list[str]:
    """Run a group, with more options for pytest; gives what was wrong."""
    # The project's folder is root's, and the group's user need not be.
    environment = f"{ENVIRONMENT} HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis-{group.name}"
    command = ["systemd-run", f"--unit=tests-{group.name}", "--wait", "--pipe", "--collect", "--quiet"]
    properties = ("KillMode=mixed", f"WorkingDirectory={TESTED}", f"Environment={environment}", *group.properties)
    command += [f"--property={each}" for each in properties]
    command += [sys.executable, "-m", *group.command]
    if group.report:
        command += ["-p", "tests.machine.told", "-p", "no:cacheprovider", f"--junitxml={group.report}"]
        command += ["--color=no", "-vv", "--durations=10", *options]
    began = time.monotonic()
    print(f"machine: {group.name}: {' '.join(group.command)} ({', '.join(group.properties)})", flush=True)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line.decode(errors="replace"), end="", flush=True)
    wrong = [] if process.returncode == 0 else [f"it ended with {process.returncode}"]
    wrong += unseen(group)
    print(f"machine: {group.name}: {time.monotonic() - began:.0f} s; {'; '.join(wrong) or 'well'}", flush=True)
    return wrong


def unseen(group: Group) -> list[str]:
    """The tests that were skipped and should not have been."""
    if group.report is None:
        return []
    if not group.report.exists():
        return ["it left no report"]
    found = []
    for case in ElementTree.parse(group.report).iter("testcase"):
        for skipped in case.iter("skipped"):
            why = skipped.get("message", "")
            if not any(text in why for text in group.may_skip):
                found.append(f"{case.get('name')} was skipped: {why}")
    return found


def main() -> int:
    wish = json.loads(WISH.read_text())
    wanted = [group for group in GROUPS if group.name in wish["only"] or not wish["only"]]
    wrong = [f"{group.name}: {each}" for group in wanted for each in run(group, wish["options"])]
    for each in wrong:
        print(f"machine: {each}", flush=True)
    print(DONE if not wrong else f"machine: {len(wrong)} wrong", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
