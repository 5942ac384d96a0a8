"""What is asked of new code before a launcher becomes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from jobd.launcher import upgrade
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[4]


def test_new_code_is_looked_for_where_the_launcher_would_find_it(
    pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -P, nothing in the present directory is executed."""
    (tmp_path / "trio.py").write_text("raise ImportError('of the present directory')")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    command = [sys.executable, "-P", "-m", "jobd.server", "--state", str(tmp_path / "state"), *flags]
    trial = upgrade.Trial([sys.executable, "-P", "-m", "jobd.launcher"], command, environment)
    _, status = os.waitpid(trial.pid, 0)
    assert trial.problem(status) == ""
    assert not (tmp_path / "state").exists()
