"""Programs that install programs: pipx, and uv tool."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from api.version import VERSION
from tests.support.installed import environment, run

INSTALL_SECONDS = 300


@pytest.mark.skipif(not shutil.which("pipx"), reason="needs pipx")
def test_pipx_installs_it(wheel: Path, tmp_path: Path) -> None:
    """All three programs can be called by name, and their pages read."""
    places = {"PIPX_HOME": "pipx", "PIPX_BIN_DIR": "bin", "PIPX_MAN_DIR": "man"}
    env = environment(tmp_path, tmp_path / "bin") | {name: str(tmp_path / place) for name, place in places.items()}
    install = [shutil.which("pipx") or "", "install", "--python", sys.executable, str(wheel)]
    run(*install, cwd=tmp_path, env=env, timeout=INSTALL_SECONDS)
    _can_be_called(tmp_path, env)
    assert (tmp_path / "man" / "man1" / "jobd-backup.1").exists()


@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv")
def test_uv_installs_it(wheel: Path, tmp_path: Path) -> None:
    """All three programs can be called by name."""
    env = environment(tmp_path, tmp_path / "bin") | {
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
    }
    install = [shutil.which("uv") or "", "tool", "install", "--python", sys.executable, str(wheel)]
    run(*install, cwd=tmp_path, env=env, timeout=INSTALL_SECONDS)
    _can_be_called(tmp_path, env)


def _can_be_called(home: Path, env: dict[str, str]) -> None:
    for program in ("jobd", "jobcli"):
        assert run(home / "bin" / program, "--version", cwd=home, env=env).stdout == f"{program} {VERSION}\n"
    run(home / "bin" / "jobpki", "init", "ca", cwd=home, env=env)
    run(home / "bin" / "jobpki", "show", "ca/ca.crt", cwd=home, env=env)
