"""What is in the packages, and what is not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from api.version import VERSION
from tests.support.daemon import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("api/", "jobcli/", "jobd/", "pki/")
STRAY = ("pki/ca.key", "pki/ca.crt", "pki/index.jsonl", "state/jobs.sqlite3", "jobd/notes.txt", "api/jobs.sqlite3")
"""What people leave in a checkout: a CA in the directory that the README says, a state directory, notes."""


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout")
    return set(listed.stdout.splitlines())


def pages() -> set[str]:
    made = ROOT / "build" / "share"
    return {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"jobd-{VERSION}.dist-info/METADATA"))


def test_the_sdist_is_the_checkout(sdist: Path) -> None:
    """Each file that is in version control, tests and documents too, and the pages; nothing else."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    assert names == tracked() | {"PKG-INFO"} | {f"build/share/{name}" for name in pages()}


def test_the_wheel_is_the_programs(wheel: Path) -> None:
    """The code of the four packages with its data, and the pages; no tests, nothing that is only for development."""
    code = {name for name in tracked() if name.startswith(PACKAGES)} - {"api/proto/generate.py", "api/proto/buf.yaml"}
    assert names_in_wheel(wheel) == code | {f"jobd-{VERSION}.data/data/share/{name}" for name in pages()}


def test_the_same_source_gives_the_same_packages_whatever_lies_about(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """Byte for byte: so keys, states and notes in a checkout are in no package, and anyone can see what is in one."""
    copy = tmp_path / "copy"
    for name in tracked() | {f"build/share/{name}" for name in pages()}:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in STRAY:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("secret")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", copy]
    subprocess.run(command, check=True, capture_output=True)
    for package in (sdist, wheel):
        assert sha256(tmp_path / "dist" / package.name) == sha256(package), package.name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_wheel_says_what_the_project_says(wheel: Path) -> None:
    """Name, version, Python, dependencies."""
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("jobd", VERSION)
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert {_without_spaces(each) for each in metadata.get_all("Requires-Dist", [])} == set(PROJECT["dependencies"])


def _without_spaces(requirement: str) -> str:
    return requirement.replace(" ", "")


def test_without_a_licence_no_index_takes_it(wheel: Path) -> None:
    """Its notice is in it, in the words of PEP 639; and indexes refuse the classifier."""
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "LicenseRef-Proprietary"
    assert metadata.get_all("License-File") == ["LICENSE"]
    with zipfile.ZipFile(wheel) as archive:
        notice = archive.read(f"jobd-{VERSION}.dist-info/licenses/LICENSE").decode()
    assert notice == (ROOT / "LICENSE").read_text()
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
