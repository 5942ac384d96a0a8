"""A CA, the command line, and openssl, as the tests of the certificate tool use them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from pki.authority import Authority
from pki.cli import main

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Jobpki = Callable[..., Result]
Openssl = Callable[..., str]


@pytest.fixture
def now() -> datetime:
    """The clock of tests that work in-process."""
    return START


@pytest.fixture
def ca(tmp_path: Path, now: datetime) -> Authority:
    """A CA made at ``now``."""
    return Authority.create(tmp_path / "ca", now=now)


@pytest.fixture
def jobpki(capsys: pytest.CaptureFixture[str]) -> Jobpki:
    """The command line, in-process, by the real clock."""

    def run(*argv: str | Path) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def pki_dir(tmp_path: Path, jobpki: Jobpki) -> Path:
    """A directory with a CA that is valid today."""
    assert jobpki("init", tmp_path / "pki").code == 0
    return tmp_path / "pki"


@pytest.fixture
def openssl(tmp_path: Path) -> Openssl:
    """The openssl program, run in ``tmp_path``."""

    def run(*argv: str | Path) -> str:
        command = ["openssl", *map(str, argv)]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    return run
