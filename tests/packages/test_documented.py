"""The installation as the operations manual has it, in other directories."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from api.version import VERSION
from tests.support.installed import environment, run
from tests.support.shown import shown_in

INSTALL_SECONDS = 300
ASKED = {
    "bash": "complete -p jobcli",
    "zsh": "autoload -Uz compinit; compinit -u -D; echo $_comps[jobcli]",
    "fish": "complete -C 'jobcli st'",
}
"""With what each shell says that it has the completion; and in the order of the manual."""


def test_it_is_installed_as_it_is_shown(wheel: Path, tmp_path: Path) -> None:
    """The three programs can be called by name, and the shells complete them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "dist").symlink_to(wheel.parent)
    env = environment(tmp_path, tmp_path / "bin")

    def here(command: str) -> str:
        for there, place in {
            "/opt/jobd": str(tmp_path / "jobd"),
            "/usr/local/bin": str(tmp_path / "bin"),
            "python3 ": f"{sys.executable} ",
        }.items():
            command = command.replace(there, place)
        return command

    *commands, bash, zsh, fish = shown_in("operations.md", "Installing")
    for command in commands:
        run("bash", "-c", here(command), cwd=tmp_path, env=env, timeout=INSTALL_SECONDS)
    for program in ("jobd", "jobcli"):
        assert run(tmp_path / "bin" / program, "--version", cwd=tmp_path, env=env).stdout == f"{program} {VERSION}\n"
    run(tmp_path / "bin" / "jobpki", "init", "ca", cwd=tmp_path, env=env)
    for shell, command in {"bash": bash, "zsh": zsh, "fish": fish}.items():
        if shutil.which(shell):
            said = run(shell, "-c", f"{here(command)}\n{ASKED[shell]}", cwd=tmp_path, env=env).stdout
            assert "jobcli" in said or "stop" in said, shell
