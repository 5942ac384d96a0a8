"""In the machine: groups of tests, each in a unit of systemd's, and what came of them, on a serial line.

Every test that is skipped has to be one of those that the group says; else the machine was made for nothing.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from tests.machine.image import TESTED, USER

WISH: Final = "jobd.tests"
"""Of the kernel's command line: which groups, and more options for pytest."""
WELL: Final = "nothing was wrong"
"""The last line of a group, if that is so."""
DID: Final = "did: "
"""Begins a line that says what was done."""
NOT_HERE: Final = ("freezer of cgroup v1",)
"""Why a test may be skipped in a machine without control groups of version 1."""
NOT_AS_ROOT: Final = (*NOT_HERE, "needs not to be root", "to be alone")
NOT_AS_USER: Final = (*NOT_HERE, "needs root")
PATIENCE: Final = 20
"""Without virtualization a machine is so much slower than ours; more, where it is not alone."""
ENVIRONMENT: Final = f"TMPDIR=/tmp LANG=C.UTF-8 JOBD_TEST_PATIENCE={PATIENCE}"
REPORTS: Final = Path("/var/tmp")
DELEGATED: Final = ("Delegate=yes",)
AS_USER: Final = (*DELEGATED, f"User={USER}")
CHOSEN: Final = (
    "-k",
    "not none and not v1 and not cgroup-v2 and not cannot_be_held and not operator_s and not each_process",
)
"""What depends on control groups, in the kind that the machine has, once: all else is here as anywhere."""
CONTAINED: Final = (
    *CHOSEN,
    "tests/unit/jobd/limits",
    "tests/faults/test_contained.py",
    "tests/faults/test_outlived.py",
)
UNPRIVILEGED: Final = ("-k", "not none and not v1", "tests/integration/test_unprivileged.py")
HOSTILE: Final = (*CHOSEN, "tests/faults/test_hostile_job.py", "tests/faults/test_isolated_ends.py")


@dataclass(frozen=True)
class Group:
    """Some tests.

    Attributes:
        command: a module, and its arguments.
        properties: of the unit that they run in.
        may_skip: texts, one of which has to be in the reason of each test that is skipped.
        limit: seconds that it may take, where the machine is emulated.
    """

    name: str
    command: Sequence[str]
    properties: Sequence[str] = ()
    may_skip: Sequence[str] = ()
    limit: float = 3600.0

    @property
    def report(self) -> Path | None:
        """Where pytest says what became of each test; None if it is another program."""
        return REPORTS / f"{self.name}.xml" if self.command[0] == "pytest" else None


SERVICE: Final = (
    # By the ids of test_service.py's SERVERS, and what is of none of them.
    Group(
        "service-root",
        ("pytest", "tests/machine", "-k", "not privileges and not ordinary"),
        may_skip=("systemd before 254",),
    ),
    Group("service-unprivileged", ("pytest", "tests/machine", "-k", "privileges")),
    Group("service-user", ("pytest", "tests/machine", "-k", "ordinary")),
)
AS_ROOT: Final = (
    Group("root", ("pytest", *CONTAINED), DELEGATED, NOT_AS_ROOT),
    Group("root-hostile", ("pytest", *HOSTILE), DELEGATED, NOT_AS_ROOT),
    Group(
        "root-unprivileged",
        ("pytest", *UNPRIVILEGED),
        DELEGATED,
    ),
    Group("matrix", ("tests.faults.matrix", "--kind", "cgroup-v2"), DELEGATED),
)
AS_ORDINARY: Final = (
    Group("user", ("pytest", *CONTAINED), AS_USER, NOT_AS_USER),
    Group("user-hostile", ("pytest", *HOSTILE), AS_USER, NOT_AS_USER),
)
MACHINES: Final = (SERVICE, AS_ROOT, AS_ORDINARY)
"""What is run in one machine, one after another. (To start a machine takes minutes where it is emulated.)"""
GROUPS: Final = tuple(group for groups in MACHINES for group in groups)


def run(group: Group, options: Sequence[str]) -> list[str]:
    """Run a group, with more options for pytest; gives what was wrong."""
    # The project's folder is root's, and the group's user need not be.
    environment = f"{ENVIRONMENT} HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis-{group.name}"
    command = ["systemd-run", f"--unit=tests-{group.name}", "--wait", "--pipe", "--collect", "--quiet"]
    properties = ["KillMode=mixed", f"RuntimeMaxSec={group.limit:.0f}", f"WorkingDirectory={TESTED}"]
    properties += [f"Environment={environment}", *group.properties]
    command += [f"--property={each}" for each in properties]
    command += [sys.executable, "-m", *group.command]
    if group.report:
        command += ["-p", "tests.machine.told", "-p", "no:cacheprovider", f"--junitxml={group.report}"]
        command += ["--color=no", "-vv", "--durations=10", *options]
    began = time.monotonic()
    say(group, f"{' '.join(group.command)} ({', '.join(group.properties)})")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(group, line.decode(errors="replace").rstrip("\r\n"))
    wrong = [] if process.returncode == 0 else [f"it ended with {process.returncode}"]
    cases = cases_in(group.report) if group.report else []
    if group.report and not cases:
        wrong.append("it ran no tests")
    wrong += unforeseen(cases, group.may_skip)
    counts = Counter(kind for _, kind, _ in cases)
    numbers = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)) or "no tests of pytest's"
    reasons = Counter(why for _, kind, why in cases if kind == "skipped")
    skipped = [f"{count} skipped: {why}" for why, count in sorted(reasons.items())]
    for each in (f"{numbers}, {time.monotonic() - began:.0f} s", *skipped, *(f"WRONG: {each}" for each in wrong)):
        say(group, f"{DID}{each}")
    if not wrong:
        say(group, WELL)
    return wrong


def say(group: Group, line: str) -> None:
    """A line, and whose it is."""
    print(f"{group.name}: {line}", flush=True)


def cases_in(report: Path) -> list[tuple[str, str, str]]:
    """Each test in a report: its name, what became of it, and why."""
    if not report.exists():
        return []
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        ends = [(each.tag, each.get("message", "")) for each in case if each.tag in ("skipped", "failure", "error")]
        kind, why = ends[0] if ends else ("passed", "")
        found.append((case.get("name", ""), kind, why))
    return found


def unforeseen(cases: Sequence[tuple[str, str, str]], may_skip: Sequence[str]) -> list[str]:
    """The tests that were skipped and should not have been."""
    return [
        f"{name} was skipped: {why}"
        for name, kind, why in cases
        if kind == "skipped" and not any(text in why for text in may_skip)
    ]


def wish() -> dict[str, Any]:
    """What is to be done, as said when the machine was started."""
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    wished: dict[str, Any] = json.loads(base64.urlsafe_b64decode(words[WISH]))
    return wished


def main() -> int:
    wished = wish()
    wanted = [each for each in GROUPS if each.name in wished["groups"]]
    wrong = [run(group, wished["options"]) for group in wanted]  # each, whatever became of the others
    return any(wrong)


if __name__ == "__main__":
    sys.exit(main())
