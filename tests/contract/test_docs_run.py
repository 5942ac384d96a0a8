"""Every command that a document shows is run by a test; which is not stands in a list, with why."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from jobcli.cli import VERBS
from tests.support.daemon import ROOT
from tests.support.documents import DOCUMENTS
from tests.support.shown import NOT_RUN, everything_shown, named, sections_of

RUN_BY = {
    "tests/integration/test_readme.py": {("README.md", "A session")},
    "tests/integration/test_operations.py": {("howto.md", section) for section in sections_of("howto.md")}
    | {
        ("operations.md", section)
        for section in (
            "The first hour",
            "Running jobd",
            "Looking before starting",
            "Revoking",
            "Several jobs in one file",
            "Health, and other tools",
            "The audit log",
            "Metrics",
            "Backup and restore",
        )
    },
    "tests/contract/test_docs_certificates.py": {
        ("operations.md", section)
        for section in (
            "Certificates",
            "What expires",
            "Renewing",
            "Revoking",
            "The root's key off the machine",
            "Keys and passphrases",
        )
    },
    "tests/packages/test_documented.py": {("operations.md", "Installing")},
    "tests/packages/test_debian.py": {("README.Debian", "")},
    "tests/integration/pool/test_pool_faults.py": {("pool.md", "When etcd is full")},
    "tests/integration/etcd/test_manual.py": {
        ("pool.md", "What an operator has to know"),
        ("security.md", "Who may do what"),
    },
}
"""Sections, by the file of the tests that run what they show."""

NAMED = {
    "amtool": "tests/integration/test_alerting.py, with a Prometheus and an Alertmanager: in the session of the judges",
    "apt": "tests/packages/test_debian.py, with dpkg",
    "cat": "joins files: tests/integration/test_live_lists.py has two CAs and their lists in one",
    "chattr": "takes a file system that knows it",
    "chmod": "says no file",
    "chown": "takes root: tests/integration/test_unprivileged.py",
    "etcdctl": "tests/integration/etcd/test_manual.py; of one that is full: tests/integration/pool/test_pool_faults.py",
    "etcdutl": "the same; a newer one than there is",
    "getconf": "below",
    "install": "tests/integration/test_operations.py",
    "iostat": "is not installed with anything of ours",
    "ls": "below",
    "man": "tests/packages/test_pages.py",
    "nox": "sessions: tests/contract/test_docs_commands.py sees that they are there",
    "openssl": "below, and tests/integration/test_encrypted_keys.py",
    "pip": "tests/packages/conftest.py",
    "pipx": "tests/packages/test_installers.py",
    "promtool": "tests/contract/test_monitoring.py",
    "ps": "below",
    "python": "what jobd starts, or a session does",
    "py-spy": "is not installed with anything of ours",
    "sh": "as nox",
    "ss": "below",
    "systemctl": "tests/machine",
    "systemd-analyze": "tests/contract/test_units.py",
    "systemd-run": "takes systemd; docs/systemd/before-254.conf has the same, and tests/machine starts it",
    "uv": "tests/packages/test_installers.py",
}
"""Programs that are not ours, of commands that the text names; who runs them."""
RUN_HERE = (
    *("ps -o pid,stat,wchan -p N", "ps -o pid,stat,wchan -g PGID", "ls /proc/PID/fd", "ss -ltnp"),
    *("getconf ARG_MAX", "openssl rand -hex 32"),
)


def test_every_command_that_is_shown_is_run() -> None:
    """Or is one of those that are not."""
    run = set().union(*RUN_BY.values())
    shown = list(everything_shown())
    assert len(shown) > 80
    left = [each for each in shown if (each.document, each.section) not in run and each.command not in NOT_RUN]
    assert left == []
    assert NOT_RUN.keys() - {each.command for each in shown} == set(), "is shown nowhere"


def test_the_tests_that_run_them_are_there() -> None:
    """Each takes what it runs from the document, by the name of its section."""
    for test, sections in RUN_BY.items():
        text = (ROOT / test).read_text()
        taken = {each for each in sections if f'sections_of("{each[0]}")' in text}
        assert [each for each in sections - taken if each[0] not in text or each[1] not in text] == []
    for why in [*NAMED.values(), *NOT_RUN.values()]:
        assert [path for path in re.findall(r"(?:tests|docs)/[\w./-]*\w", why) if not (ROOT / path).exists()] == []


def programs_named() -> Iterator[tuple[str, str]]:
    """The programs by which codes of several words begin that the text has, if they are any; and the whole code."""
    for page in DOCUMENTS:
        for code in named(page.read_text()):
            if found := re.match(r"(?:/[\w./-]+/)?([a-z][a-z-]*) ", code):
                yield found[1], code


def test_every_program_that_is_named_has_somebody_who_runs_it() -> None:
    """Or it is said why there is nobody. Whatever has options or paths behind it is taken for one."""
    programs = dict(programs_named())
    assert NAMED.keys() - programs.keys() == set(), "is named nowhere"
    surely = {name: code for name, code in programs_named() if re.search(r" (-[a-z]\b|--[a-z]|/)", code)}
    assert {name: surely[name] for name in surely.keys() - NAMED.keys() - OURS} == {}


OURS = {"jobd", "jobcli", "jobpki", *VERBS, "show", "jobs"}
"""Ours, by their verbs too; and the first word of a message."""


@pytest.mark.parametrize("command", RUN_HERE)
def test_what_is_named_to_look_with_can_be_run(command: str) -> None:
    """As it stands, of the process that it is itself."""
    if not shutil.which(command.split()[0]):
        pytest.skip(f"needs {command.split()[0]}")
    assert any(f"`{command}`" in page.read_text() for page in DOCUMENTS)
    script = re.sub(r"\b(PID|PGID|N)\b", "$$", f"exec {command}")  # as a job, it is a session of its own
    done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True, start_new_session=True)
    assert done.stdout
