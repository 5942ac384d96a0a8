"""What is asked of new code before a launcher becomes it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from jobd.launcher import upgrade

ROOT = Path(__file__).parents[4]


def test_new_code_is_looked_for_where_the_launcher_would_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -P, nothing in the present directory is executed."""
    (tmp_path / "trio.py").write_text("raise ImportError('of the present directory')")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    assert upgrade.problem([sys.executable, "-P", "-m", "jobd.launcher"], environment) == ""
