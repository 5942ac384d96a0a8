"""Encrypted keys: where the passphrase comes from, and what is said when it is wrong."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

import pki
from pki.authority import Authority
from pki.errors import PassphraseError
from pki.keys import key_pem, new_key
from pki.passphrases import MAX_PASSPHRASE_BYTES, from_descriptor, from_file
from pki.reading import load_key

from .conftest import Jobpki, Openssl

ROOT = str(Path(pki.__file__).parent.parent)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a passphrase in its first line."""
    path = tmp_path / "secret"
    path.write_text("correct horse\nsomething else\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def locked_ca(tmp_path: Path, secret: Path, jobpki: Jobpki) -> Path:
    """A CA with an encrypted key."""
    assert jobpki("init", tmp_path / "locked", "--key-passphrase-file", secret).code == 0
    return tmp_path / "locked"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_an_encrypted_key_is_encrypted_pkcs8(locked_ca: Path, openssl: Openssl, secret: Path) -> None:
    """The key is in the standard's form (RFC 5958), and openssl opens it with the passphrase."""
    text = (locked_ca / "ca.key").read_text()
    assert text.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "BEGIN PRIVATE KEY" in openssl("pkey", "-in", locked_ca / "ca.key", "-passin", f"file:{secret}")


@pytest.mark.parametrize("rounds", [[], ["-iter", "600000"], ["-scrypt"]], ids=" ".join)
def test_openssl_s_encrypted_key_is_read(
    tmp_path: Path, openssl: Openssl, locked_ca: Path, secret: Path, jobpki: Jobpki, rounds: list[str]
) -> None:
    """A CA's key that openssl encrypted anew, with more rounds or scrypt, opens here."""
    (tmp_path / "new").write_text("another\n")
    secrets = ("-passin", f"file:{secret}", "-passout", f"file:{tmp_path}/new")
    openssl("pkcs8", "-topk8", "-in", locked_ca / "ca.key", *secrets, *rounds, "-out", "x.key")
    (locked_ca / "ca.key").unlink()
    (tmp_path / "x.key").rename(locked_ca / "ca.key")
    assert jobpki("crl", locked_ca, "--ca-passphrase-file", tmp_path / "new").code == 0


def test_from_a_file(locked_ca: Path, secret: Path, jobpki: Jobpki) -> None:
    """The first line of a file opens the CA's key."""
    assert jobpki("client", locked_ca, "alice", "--no-role", "--ca-passphrase-file", secret).code == 0


def test_from_a_descriptor(locked_ca: Path, jobpki: Jobpki, pipe: tuple[int, int]) -> None:
    """Two passphrases may come from one descriptor, in turn: the CA's, then the new key's."""
    os.write(pipe[1], b"correct horse\nof alice\n")
    options = ("--ca-passphrase-fd", pipe[0], "--key-passphrase-fd", pipe[0])
    assert jobpki("client", locked_ca, "alice", "--no-role", *map(str, options)).code == 0
    assert load_key(locked_ca / "alice.key", ask=lambda: b"of alice")


def test_a_wrong_one(locked_ca: Path, tmp_path: Path, jobpki: Jobpki) -> None:
    """A wrong passphrase is told in one line; nothing is made."""
    (tmp_path / "wrong").write_text("wrong\n")
    result = jobpki("client", locked_ca, "alice", "--no-role", "--ca-passphrase-file", tmp_path / "wrong")
    assert (result.code, result.out) == (1, "")
    assert "the passphrase is not that of the CA key" in result.err
    assert not list(locked_ca.glob("alice.*"))


def test_an_encrypted_key_without_anybody_to_ask(ca: Authority) -> None:
    """The library says that a key is encrypted."""
    ca.key_path.unlink()
    ca.key_path.write_bytes(key_pem(new_key(), b"x"))
    with pytest.raises(PassphraseError, match="is encrypted: give its passphrase"):
        Authority.load(ca.directory)


def test_a_passphrase_is_asked_for_only_if_it_is_needed(ca: Authority, now: datetime) -> None:
    """A key that is not encrypted needs none, whatever was given."""

    def ask() -> bytes:
        pytest.fail("nobody is to be asked")

    Authority.load(ca.directory, ask)


@pytest.mark.parametrize("content", [b"", b"\nsecret\n", b"a" * (MAX_PASSPHRASE_BYTES + 1)])
def test_bad_passphrases(tmp_path: Path, pipe: tuple[int, int], content: bytes) -> None:
    """An empty passphrase would protect nothing, and one that is too long could be opened by nobody else."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PassphraseError):
        from_file(tmp_path / "x")()
    reader = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        with pytest.raises(PassphraseError):
            from_descriptor(reader)()
    finally:
        os.close(reader)


def test_line_ends_are_not_a_part_of_it(tmp_path: Path) -> None:
    """A passphrase written on another system is the same."""
    (tmp_path / "x").write_bytes(b"a b \r\nmore")
    assert from_file(tmp_path / "x")() == b"a b "


def test_a_descriptor_that_is_not_open(jobpki: Jobpki, locked_ca: Path) -> None:
    """It is told by number."""
    result = jobpki("crl", locked_ca, "--ca-passphrase-fd", "999")
    assert (result.code, "descriptor 999: Bad file descriptor" in result.err) == (1, True)


def test_no_terminal(locked_ca: Path) -> None:
    """Without a terminal nobody is asked, and above all nothing is read from standard input."""
    command = [sys.executable, "-m", "pki", "crl", locked_ca]
    ended = subprocess.run(
        command, cwd=ROOT, input="correct horse\n", capture_output=True, text=True, check=False, start_new_session=True
    )
    assert ended.returncode == 1
    assert "there is no terminal" in ended.stderr


class Terminal:
    """jobpki at a terminal of its own."""

    def __init__(self, *argv: str | Path) -> None:
        self.child, self.screen = pty.fork()
        if self.child == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, "-m", "pki", *map(str, argv)])
        self.seen = ""

    def expect(self, text: str) -> None:
        """Read until this was printed."""
        while text not in self.seen:
            try:
                self.seen += os.read(self.screen, 1000).decode()
            except OSError:  # this is how the end of a terminal is told
                pytest.fail(f"jobpki ended without {text!r}, and with {self.seen!r}")

    def type(self, line: str) -> None:
        """What the person types."""
        os.write(self.screen, f"{line}\n".encode())

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        try:
            while more := os.read(self.screen, 1000):
                self.seen += more.decode()
        except OSError:  # the end
            pass
        os.close(self.screen)
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def test_at_the_terminal(locked_ca: Path) -> None:
    """At a terminal it is asked for, and not shown."""
    terminal = Terminal("crl", locked_ca)
    terminal.expect(f"Passphrase of {locked_ca}/ca.key: ")
    terminal.type("correct horse")
    assert terminal.end() == 0
    assert "number: 1" in terminal.seen
    assert "correct horse" not in terminal.seen


def test_a_new_one_is_typed_twice(tmp_path: Path) -> None:
    """A slip in a new passphrase is noticed before it locks the key for good."""
    terminal = Terminal("init", tmp_path / "x", "--encrypt-key")
    terminal.expect("Passphrase of the new key ")
    terminal.type("one")
    terminal.expect("The same again: ")
    terminal.type("two")
    assert terminal.end() == 1
    assert "the two passphrases differ" in terminal.seen
    assert not (tmp_path / "x").exists()
