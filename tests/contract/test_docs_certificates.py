"""The commands that the runbook tells about certificates do what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pki.cli import main
from tests.support.shown import shown_in

SECTIONS = (
    "Certificates",
    "What expires",
    "Renewing",
    "Revoking",
    "The root's key off the machine",
    "Keys and passphrases",
)


def test_the_commands_of_the_runbook_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first to the last, in their order, in an empty directory."""
    shown = shown_in("operations.md", *SECTIONS)
    commands = [command.removeprefix("jobpki ") for command in shown if command.startswith("jobpki ")]
    assert len(commands) > 15
    monkeypatch.chdir(tmp_path)
    for name in ("root", "carol"):
        Path(f"{name}.passphrase").write_text(f"secret of {name}\n")
    for command in commands:
        assert main(shlex.split(command)) == 0, f"jobpki {command}: {capsys.readouterr().err}"
