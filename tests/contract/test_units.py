"""The units for systemd that are kept with the documents."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobd.config import FIELDS

UNITS = Path(__file__).parents[2] / "docs" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
DOCUMENTED = re.findall(
    r"`systemd-analyze security` \((\d+)\) says ([0-9.]+) of the unit", (UNITS.parent / "operations.md").read_text()
)
"""The figure, and the release of systemd that gave it."""


def test_the_socket_is_where_jobd_would_listen() -> None:
    """Whoever enables it changes nothing for clients."""
    [address] = re.findall(r"(?m)^ListenStream=(.*)$", (UNITS / "jobd.socket").read_text())
    assert address == FIELDS["listen"].default


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Every line of both; and they leave no more open than the documents say."""
    service = (UNITS / "jobd.service").read_text().replace("/usr/local/bin/jobd", "/bin/true")
    (tmp_path / "jobd.service").write_text(service)
    (tmp_path / "jobd.socket").write_text((UNITS / "jobd.socket").read_text())
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", str(tmp_path / "jobd.service")]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not [line for line in said.stderr.splitlines() if "Unknown" in line and "DelegateSubgroup" not in line]
    [figure] = re.findall(r"exposure level for jobd\.service: ([0-9.]+)", said.stdout)
    release, documented = DOCUMENTED[0]
    found = subprocess.run([str(ANALYZE), "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    if found == release:
        assert figure == documented, "the documents say otherwise"
    assert float(figure) <= 6.5, "other releases weigh things otherwise, but not so"
    command = [str(ANALYZE), "verify", "--man=no", str(tmp_path / "jobd.socket"), str(tmp_path / "jobd.service")]
    verified = subprocess.run(command, check=False, capture_output=True, text=True)
    ours = [line for line in verified.stderr.splitlines() if str(tmp_path) in line and "DelegateSubgroup" not in line]
    assert ours == []
