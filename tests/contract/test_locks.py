"""The locks in .ci/locks are of this project, and trust nobody."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted((ROOT / ".ci" / "locks").glob("*.txt"))
_PIN = re.compile(r"^([\w.-]+)==(\S+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return {name: version for name, version, _ in _PIN.findall(lock.read_text())}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_everything_in_a_lock_has_a_version_and_hashes(lock: Path) -> None:
    """And nothing says where it is to be had: that is for each machine to know."""
    left = _PIN.sub("", lock.read_text())
    assert [line for line in left.splitlines() if line and not line.lstrip().startswith("#")] == []
    assert "://" not in left


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_what_the_project_needs(lock: Path) -> None:
    """In a version that pyproject.toml allows; after a change there: sh .ci/nox -s lock"""
    groups = ("test", "interop", "lint", "types", "proto", "package") if lock.name == "dev.txt" else ()
    wanted = [*PROJECT["project"]["dependencies"]]
    for group in groups:
        wanted += PROJECT["dependency-groups"][group]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins(lock)[requirement.name]), requirement
