"""The operations manual as it stands: a CA, a daemon, two clients, a revocation, jobs of a file, other tools, the audit
log, a backup. Its commands and files, in other directories, on other ports, and as whoever runs the tests."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import patient
from tests.support.program import program, with_programs
from tests.support.shown import sections_of, shown_in

MANUAL = (ROOT / "docs" / "operations.md").read_text()
USERS = re.compile(r"^(user|job-user) = .*\n", re.MULTILINE)
"""Settings that take root."""
LONG = patient(300)
"""For some fifty programs, one after another."""
FLAGS = ("private_tmp", "read_only_root", "no_network", "pid_namespace")
MAKEFILE = "all:\n\t@echo made\ntest:\n\t@echo tested\n"


class Here:
    """A machine's directories, in one of the tests'."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = with_programs(directory)
        # buf is a program of the environment that runs the tests.
        self.environment["PATH"] += f":{Path(sys.executable).parent}"
        self.places = {
            "/root/jobd-pki": "pki",
            "/home/alice/.config/jobcli": "pki",
            "/etc/jobd": "etc",
            "/var/log/jobd": "log",
            "/var/lib/jobd": "state",
            "/srv/backups": "backups",
            "/srv/project": "project",
        }
        self.words = {
            "jobs.example.com": "localhost",
            "0.0.0.0:50051": "127.0.0.1:0",
            "127.0.0.1:50051": "127.0.0.1:0",
            "127.0.0.1:9464": "127.0.0.1:0",
            "sudo -u jobd ": "",
            "sudo ": "",
            "-o jobd -g jobd ": "",
            "ssh elsewhere": "sh -c",
        }

    def text(self, text: str) -> str:
        """As it is said here."""
        for there, place in self.places.items():
            text = text.replace(there, str(self.directory / place))
        for there, word in self.words.items():
            text = text.replace(there, word)
        return text

    def write(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text(text))
        return file

    def run(self, command: str, place: str = "", **profile: Path) -> str:
        """The exit code, and what is said."""
        variables = {f"JOBCLI_{name.upper()}": str(path) for name, path in profile.items()}
        done = subprocess.run(
            ["bash", "-c", self.text(command)], cwd=self.directory / place, env={**self.environment, **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LONG,
            check=False,
        )  # fmt: skip
        return f"{done.returncode} {done.stdout}"

    def all_of(self, commands: list[str], place: str = "") -> list[str]:
        """What each says; asserts that each ends well."""
        said = [(command, self.run(command, place)) for command in commands]
        assert [each for each in said if not each[1].startswith("0 ")] == []
        return [text.removeprefix("0 ") for _, text in said]


def until(seen: Callable[[], object], what: Callable[[], object] = lambda: "it is never seen") -> None:
    """Wait for what comes."""
    limit = time.monotonic() + LONG
    while not seen():
        assert time.monotonic() < limit, what()
        time.sleep(0.01)


def block(section: str, pattern: str) -> str:
    """A file that a section shows."""
    [found] = re.findall(pattern, MANUAL.split(f"\n## {section}\n")[1].split("\n## ")[0], re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_operations_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command ends well, and has the effect that is told of it."""
    here = Here(tmp_path)
    commands = shown_in("operations.md", "The first hour")
    started, revoked = (
        next(number for number, command in enumerate(commands) if command.startswith(word))
        for word in ("jobd --config", "jobpki revoke")
    )
    configuration = here.write("etc/jobd.toml", USERS.sub("", block("The first hour", r"^```toml\n(.*?)^```")))
    here.all_of(commands[:started])
    with program(["--config", str(configuration)], here.environment, LONG) as (_, ready):
        here.words["localhost:50051"] = ready.split()[-1].replace("127.0.0.1", "localhost")
        here.write("config/jobcli/profile.toml", block("The first hour", r"^((?:    \w+ = [^\n]*\n){4})"))
        two_clients_and_a_revocation(here, commands[started + 1 : revoked], commands[revoked:])
        here.all_of(shown_in("operations.md", "Looking before starting"))
        here.all_of([command for command in shown_in("operations.md", "Revoking") if command.startswith("install")])
        here.write("project/Makefile", MAKEFILE)
        jobs_of_a_file(here)
        a_program_of_python(here)
        if shutil.which("buf", path=here.environment["PATH"]):
            _, listed = here.all_of(shown_in("operations.md", "Health, and other tools"), "pki")
            assert "uname" in listed
        each_wish(here)
        an_audit_log_that_was_rotated(here)
        a_backup(here)
    monkeypatch.chdir(tmp_path / "pki")
    a_jobd_with_all_options_that_are_shown(here)


def two_clients_and_a_revocation(here: Here, before: list[str], after: list[str]) -> None:
    """alice has a job run, bob reads until he is revoked, and is told so then."""
    assert any("Linux" in said for said in here.all_of(before))
    bob = {"cert": here.directory / "pki" / "bob.crt", "key": here.directory / "pki" / "bob.key"}
    assert "uname -a" in here.run("jobcli list", **bob)
    here.all_of(after)
    said = [""]

    def is_out() -> bool:
        said[0] = here.run("jobcli list", **bob)
        return "was revoked" in said[0]

    until(is_out, lambda: said[0])
    assert "uname -a" in here.run("jobcli list")


def jobs_of_a_file(here: Here) -> None:
    """All of them succeed; what cannot be had on this machine is left out."""
    worker = json.loads(here.all_of(["jobcli workers --json"])[0])
    shown = block("Several jobs in one file", r"^(    \[build\]\n(?:    [^\n]*\n|\n)+)")
    if "memory" not in worker["limits"]:
        shown = re.sub(r"^memory = .*\n", "", shown, flags=re.MULTILINE)
    if "no_network" not in worker["isolation"]:
        shown = re.sub(r"^no-network = .*\n", "", shown, flags=re.MULTILINE)
    here.write("jobs.toml", shown)
    here.write("token", "hush\n")
    [ids] = here.all_of(shown_in("operations.md", "Several jobs in one file"))
    assert len(ids.split()) == 2
    here.all_of([f"jobcli wait {' '.join(ids.split())}"])


def each_wish(here: Here) -> None:
    """Of the how-to: what a section shows is one session of a shell. What cannot be had here is left out."""
    worker = json.loads(here.all_of(["jobcli workers --json"])[0])
    missing = [
        *(f" --{limit}" for limit in ("memory", "cpus", "processes") if limit not in worker["limits"]),
        *(f" --{name.replace('_', '-')}" for name in FLAGS if name not in worker["isolation"]),
    ]
    for section in sections_of("howto.md"):
        script = "\n".join(["set -e", *shown_in("howto.md", section)])
        if "-it" not in script:  # that is the README's, and takes a person
            here.all_of([re.sub(rf"({'|'.join(missing)})( [\d.]+M?)?" if missing else "(?!)", "", script)])


def a_program_of_python(here: Here) -> None:
    """The README's."""
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = here.write("example.py", example)
    [said] = here.all_of([f"{shlex.quote(sys.executable)} {file}"])
    assert "made\n" in said


def an_audit_log_that_was_rotated(here: Here) -> None:
    """Twice; the older piece is packed, as logrotate does."""
    log = here.directory / "log" / "audit.jsonl"
    for name in ("audit.jsonl.2", "audit.jsonl.1"):
        log.rename(log.with_name(name))
        here.all_of(["jobcli list"])
        until(log.exists)  # the line can come after the answer
    older = log.with_name("audit.jsonl.2")
    older.with_name("audit.jsonl.2.gz").write_bytes(gzip.compress(older.read_bytes()))
    here.all_of(shown_in("operations.md", "The audit log"))


def a_backup(here: Here) -> None:
    """While jobd runs, into a file and elsewhere; and restored beside it."""
    *backups, directory, restore = shown_in("operations.md", "Backup and restore")
    here.all_of(backups)
    assert (here.directory / "jobd.tar").stat().st_size > 0
    [made] = (here.directory / "backups").glob("*.tar")
    here.places["/var/lib/jobd"] = "restored"
    here.all_of([directory, re.sub(r"jobd-[\d-]+\.tar", made.name, restore)])
    assert (here.directory / "restored" / "jobs.sqlite3").exists()


def a_jobd_with_all_options_that_are_shown(here: Here) -> None:
    """Where … stands for the rest, it is what is shown elsewhere."""
    here.places["/var/lib/jobd"] = "second"
    shown = shown_in("operations.md", "Running jobd", "Revoking", "Metrics")
    parts = [shlex.split(here.text(command))[1:] for command in shown if command.startswith("jobd ")]
    arguments = [word for part in parts for word in part if word != "…"]
    assert {"--cert", "--crl", "--metrics"} < set(arguments)
    with program(arguments, here.environment) as (_, ready):
        assert ready.startswith("jobd is listening on ")
