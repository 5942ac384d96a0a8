"""The first hour, as the operations manual has it: a CA, a daemon, two clients, a revocation. Its commands and files,
in other directories, on another port, and as whoever runs the tests."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.support.daemon import ROOT
from tests.support.program import SECONDS, program, with_programs

SECTION = (ROOT / "docs" / "operations.md").read_text().split("\n## The first hour\n")[1].split("\n## ")[0]
PROFILE = re.compile(r"^(server|cert|key|ca) = ")
NOT_HERE = re.compile(r"^useradd|^jobd --config")
"""What takes root; and what does not end."""


def shown() -> tuple[list[str], str, str]:
    """The commands, in their order; the configuration; the profile."""
    lines = re.findall(r"^    (\S.*)$", SECTION, re.MULTILINE)
    [configuration] = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    commands = [line for line in lines if not PROFILE.match(line)]
    return commands, configuration, "".join(f"{line}\n" for line in lines if PROFILE.match(line))


def test_the_first_hour(tmp_path: Path) -> None:
    """Each command ends well; alice has a job run, bob reads until he is revoked, and is told so then."""
    environment = with_programs(tmp_path)
    places = {
        "/root/jobd-pki": tmp_path / "pki",
        "/etc/jobd": tmp_path / "etc",
        "/var/log/jobd": tmp_path / "log",
        "/var/lib/jobd": tmp_path / "state",
        "/home/alice/.config/jobcli": tmp_path / "pki",
        "jobs.example.com": "localhost",
        "0.0.0.0:50051": "127.0.0.1:0",
        "127.0.0.1:9464": "127.0.0.1:0",
        "-o jobd -g jobd ": "",
    }

    def here(text: str) -> str:
        for there, place in places.items():
            text = text.replace(there, str(place))
        return text

    def run(command: str, **profile: Path) -> str:
        variables = {f"JOBCLI_{name.upper()}": str(path) for name, path in profile.items()}
        done = subprocess.run(
            ["bash", "-c", here(command)], cwd=tmp_path, env={**environment, **variables}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        return f"{done.returncode} {done.stdout}"

    def all_of(commands: list[str]) -> list[str]:
        said = [(command, run(command)) for command in commands if not NOT_HERE.match(command)]
        assert [each for each in said if not each[1].startswith("0 ")] == []
        return [text for _, text in said]

    commands, configuration, profile = shown()
    started = next(number for number, command in enumerate(commands) if command.startswith("jobd --config"))
    revoked = next(number for number, command in enumerate(commands) if command.startswith("jobpki revoke"))
    (tmp_path / "etc").mkdir()
    users = re.compile(r"^(user|job-user) = .*\n", re.MULTILINE)
    (tmp_path / "etc" / "jobd.toml").write_text(here(users.sub("", configuration)))
    looks = commands[:started]
    assert looks.pop().startswith("jobd check")
    all_of(looks)
    assert "wrong" not in run("jobd check --config /etc/jobd/jobd.toml")
    with program(["--config", str(tmp_path / "etc" / "jobd.toml")], environment) as (_, ready):
        places["localhost:50051"] = ready.split()[-1].replace("127.0.0.1", "localhost")
        (tmp_path / "config" / "jobcli").mkdir(parents=True)
        (tmp_path / "config" / "jobcli" / "profile.toml").write_text(here(profile))
        assert any("Linux" in said for said in all_of(commands[started + 1 : revoked]))
        bob = {"cert": tmp_path / "pki" / "bob.crt", "key": tmp_path / "pki" / "bob.key"}
        assert "uname -a" in run("jobcli list", **bob)
        all_of(commands[revoked:])
        until = time.monotonic() + SECONDS
        while "was revoked" not in (said := run("jobcli list", **bob)):
            assert time.monotonic() < until, said
        assert "uname -a" in run("jobcli list")
