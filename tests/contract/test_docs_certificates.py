"""The commands that the runbook tells about certificates do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pki.cli import main

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_commands_of_the_runbook_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first to the last, in their order, in an empty directory."""
    [section] = re.findall(r"^## Certificates$(.*?)^## ", OPERATIONS.read_text(), re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^    \$ jobpki (.*)$", section, re.MULTILINE)
    assert len(commands) > 15
    monkeypatch.chdir(tmp_path)
    for name in ("root", "carol"):
        Path(f"{name}.passphrase").write_text(f"secret of {name}\n")
    for command in commands:
        assert main(shlex.split(command)) == 0, f"jobpki {command}: {capsys.readouterr().err}"
