"""Runs tests as an ordinary user, when we are root: ``python -m tests.ordinary [ARGUMENTS OF PYTEST]``.

In a copy of the checkout that is that user's own, with a home and a directory for temporary files of its own: what the
checkout, or root, has is out of reach. What needs root is skipped there, by name.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
USER: Final = "nobody"
GROUP: Final = pwd.getpwnam(USER).pw_gid
CUT: Final = (
    "tests/unit/jobd/worker",
    "tests/unit/jobd/launcher",
    "tests/unit/jobd/limits",
    "tests/unit/jobd/storage/test_directory.py",
    "tests/integration/test_main_job.py",
    "tests/faults/test_hostile_job.py",
)
"""What depends on who we are, and a main job over real TLS."""
LEFT_OUT: Final = (".git", ".nox", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis")


def can(*command: str) -> bool:
    """The user may execute this, and it ends well."""
    try:
        return subprocess.run(command, user=USER, group=GROUP, extra_groups=[], cwd="/", check=False).returncode == 0
    except OSError:
        return False


def python_in(home: Path) -> Path | None:
    """A virtual environment of the user's own, with all that this one has; None when there is no Python of this version
    that the user may execute: those that there are lie in directories of root's."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = sysconfig.get_path("purelib")
    for base in (os.path.realpath(sys.executable), f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        if can(base, "-c", ""):
            subprocess.run([base, "-m", "venv", "--without-pip", home / "venv"], check=True)
            if not can("/bin/sh", "-c", f'test -r "{packages}/trio/__init__.py"'):
                packages = str(shutil.copytree(packages, home / "packages"))
            (home / "venv" / "lib" / name / "site-packages" / "all.pth").write_text(packages + "\n")
            return home / "venv" / "bin" / "python"
    return None


def run(arguments: list[str]) -> int:
    """Run pytest so; returns its exit code."""
    entry = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="jobd-") as name:
        home = Path(name)
        home.chmod(0o755)
        checkout = home / "checkout"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        (home / "tmp").mkdir()
        python = python_in(home)
        if python is None:
            print(
                f"ordinary: skipped: there is no Python of this version that {USER} may execute, only in root's places"
            )
            return 0
        for path in (home, *home.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        temporary = {"HOME": name, "TMPDIR": str(home / "tmp"), "USER": USER, "LOGNAME": USER}
        return subprocess.run(
            [python, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={name}/t", *arguments],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            cwd=checkout,
            env={**os.environ, **temporary},
            check=False,
        ).returncode


def main() -> int:
    arguments = sys.argv[1:]
    if all(argument.startswith("-") for argument in arguments):
        arguments += CUT
    if os.geteuid() != 0:
        return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
