"""kill -9 to jobpki at each of its steps, and many jobpki at once: no certificate that the index does not know."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pki.authority import Authority
from pki.cli import main
from pki.crl import CRL_NAME
from pki.index import Index
from pki.index_file import read_index
from pki.reading import load_certificate, load_crl

MAX_STEPS = 60
"""More than any command takes; a command that never ends well fails the test."""


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """A CA that is valid today."""
    return Authority.create(tmp_path / "ca", now=datetime.now(UTC))


def killed_at(step: int, *argv: str | Path) -> bool:
    """Run jobpki, and kill it before this step; whether it got there."""
    code = ended(begun(argv, step))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def begun(argv: Sequence[str | Path], step: int = 0) -> int:
    """The pid of a jobpki that runs, and is killed before this step."""
    child = os.fork()
    if child == 0:
        _die_at(step)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main([str(arg) for arg in argv]))
    return child


def ended(child: int) -> int:
    """How it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at(step: int) -> None:
    """End this process as kill -9 does, just before it changes the disk for the n-th time."""
    left = step

    def fatal(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "link", "replace", "unlink", "fchmod"):
        setattr(os, name, fatal(getattr(os, name)))


def index_of(ca: Authority) -> Index:
    """The index on the disk; reading it asserts that it is whole."""
    return read_index(ca.directory, ca.certificate)


def test_a_certificate_on_the_disk_is_in_the_index(ca: Authority) -> None:
    """Wherever jobpki is killed while it issues, what it left is whole, and nothing got out that is not entered."""
    for step in range(1, MAX_STEPS):
        killed = killed_at(step, "client", ca.directory, f"c{step}", "--no-role")
        known = index_of(ca).entries
        for path in ca.directory.glob("c*.crt"):
            if path.name != "ca.crt":
                assert load_certificate(path).serial_number in known, f"killed at step {step}"
        if not killed:
            break
    else:
        pytest.fail("jobpki has more steps than were tried")
    assert step > 10, "not every step was seen"
    assert list(index_of(ca).entries.values())[-1].name == f"c{step}"


def test_a_renewal_is_in_the_index(ca: Authority) -> None:
    """Wherever jobpki is killed while it renews, the certificate that is there is whole, and entered."""
    path = ca.issue_client(ca.directory, "alice", [], now=datetime.now(UTC)).certificate
    for step in range(1, MAX_STEPS):
        killed = killed_at(step, "renew", ca.directory, path)
        assert load_certificate(path).serial_number in index_of(ca).entries, f"killed at step {step}"
        if not killed:
            return
    pytest.fail("jobpki has more steps than were tried")


def test_the_numbers_of_lists_grow(ca: Authority) -> None:
    """Wherever jobpki is killed while it makes a list, the list that is there is whole; no two have one number."""
    path = ca.directory / CRL_NAME
    seen = [0]
    for step in range(1, MAX_STEPS):
        killed = killed_at(step, "crl", ca.directory)
        if path.exists():
            number = _number(ca)
            assert number >= seen[-1]
            assert number <= index_of(ca).crl_number
            seen.append(number)
        if not killed:
            break
    else:
        pytest.fail("jobpki has more steps than were tried")
    assert killed_at(MAX_STEPS, "crl", ca.directory) is False
    assert _number(ca) > seen[-1]


def test_a_revocation_stays_or_did_not_happen(ca: Authority) -> None:
    """Wherever jobpki is killed while it revokes, the index says yes or no, and the next try ends well."""
    ca.issue_client(ca.directory, "alice", [], now=datetime.now(UTC))
    for step in range(1, MAX_STEPS):
        [entry] = index_of(ca).entries.values()
        if entry.revoked is not None:
            return
        killed_at(step, "revoke", ca.directory, "--name", "alice")
    pytest.fail("it was never revoked")


def test_many_at_once_lose_nothing(ca: Authority) -> None:
    """Several jobpki at the same time enter each of their certificates."""
    names = [f"c{number}" for number in range(16)]
    running = [begun(["client", ca.directory, name, "--no-role"]) for name in names]
    assert [ended(child) for child in running] == [0] * len(names)
    assert sorted(entry.name for entry in index_of(ca).entries.values()) == sorted(names)


def _number(ca: Authority) -> int:
    crl = load_crl(ca.directory / CRL_NAME)
    assert crl.is_signature_valid(ca.key.public_key())
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
