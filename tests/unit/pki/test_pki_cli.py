"""The command line: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

import pki
from api.identity import Role, principal_of
from pki.authority import Authority
from pki.reading import load_certificate
from tests.support.patience import patient


class Result(Protocol):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Jobpki = Callable[..., Result]
Openssl = Callable[..., str]


class Child(NamedTuple):
    """How to run the command line in its own process."""

    argv: list[str]
    cwd: Path


@pytest.fixture
def child() -> Child:
    """The command line in its own process."""
    return Child([sys.executable, "-m", "pki.cli"], Path(pki.__file__).parent.parent)


def _days_from_now(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


def test_init(tmp_path: Path, jobpki: Jobpki) -> None:
    """init says what it made, where and until when, one fact a line."""
    result = jobpki("init", tmp_path / "pki", "--name", "Test CA", "--days", "10")
    assert (result.code, result.err) == (0, "")
    assert f"key: {tmp_path}/pki/ca.key\n" in result.out
    assert "name: Test CA\n" in result.out
    assert f"valid until: {_days_from_now(10)}T" in result.out
    assert Authority.load(tmp_path / "pki").certificate.subject.rfc4514_string() == "CN=Test CA"


def test_server(pki_dir: Path, jobpki: Jobpki) -> None:
    """server makes three files and says for which hosts."""
    result = jobpki("server", pki_dir, "--host", "localhost", "--host", "127.0.0.1")
    assert result.code == 0
    assert "hosts: localhost, 127.0.0.1\n" in result.out
    assert f"certificate: {pki_dir}/server.crt\n" in result.out
    assert {path.name for path in pki_dir.glob("server.*")} == {"server.key", "server.csr", "server.crt"}


def test_server_name_is_the_stem(pki_dir: Path, jobpki: Jobpki) -> None:
    """--name gives a server's files another name."""
    assert jobpki("server", pki_dir, "--host", "localhost", "--name", "edge", "--days", "3").code == 0
    assert (pki_dir / "edge.crt").exists()


def test_client(pki_dir: Path, jobpki: Jobpki) -> None:
    """client makes three files and says for whom; --role may repeat."""
    result = jobpki("client", pki_dir, "alice", "--role", "writer", "--role", "reader")
    assert result.code == 0
    assert "principal: alice\nroles: reader, writer\n" in result.out
    assert f"valid until: {_days_from_now(90)}T" in result.out


def test_json(pki_dir: Path, jobpki: Jobpki) -> None:
    """--json prints the same facts as one object."""
    facts = json.loads(jobpki("client", pki_dir, "alice", "--role", "writer", "--json").out)
    assert (facts["certificate"], facts["roles"]) == (f"{pki_dir}/alice.crt", ["writer"])


def test_no_role_is_said_aloud(pki_dir: Path, jobpki: Jobpki) -> None:
    """A client without a role needs --no-role, and cannot have both."""
    assert jobpki("client", pki_dir, "eve").code == 2
    assert jobpki("client", pki_dir, "eve", "--role", "reader", "--no-role").code == 2
    assert "roles: none\n" in jobpki("client", pki_dir, "eve", "--no-role").out


def test_request_then_sign(pki_dir: Path, tmp_path: Path, jobpki: Jobpki) -> None:
    """A request is made without a CA, and signed with it; only the certificate is made there."""
    away = tmp_path / "away"
    assert jobpki("request", away, "client", "bob").code == 0
    assert jobpki("request", away, "server", "--host", "localhost").code == 0
    assert {path.name for path in away.iterdir()} == {"bob.key", "bob.csr", "server.key", "server.csr"}
    signed = jobpki("sign", pki_dir, away / "bob.csr", "client", "--role", "writer", "--name", "bob")
    assert "principal: bob\nroles: writer\n" in signed.out
    assert "hosts: localhost\n" in jobpki("sign", pki_dir, away / "server.csr", "server", "--out", "edge").out
    assert {path.name for path in pki_dir.iterdir()} == {
        *("ca.key", "ca.crt", "index.jsonl", "index.lock"),
        *("bob.crt", "edge.crt"),
    }
    assert principal_of(load_certificate(pki_dir / "bob.crt")).roles == {Role.WRITER}


def test_sign_says_what_is_left_out(pki_dir: Path, tmp_path: Path, jobpki: Jobpki, openssl: Openssl) -> None:
    """Attributes of a request's subject that grant nothing are left out, and that is said."""
    subject = "/C=NL/O=ACME/CN=bob"
    openssl("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "bob.key", "-out", "bob.csr", "-subj", subject)
    result = jobpki("sign", pki_dir, tmp_path / "bob.csr", "client", "--no-role")
    assert "left out of the subject: C=NL, O=ACME\n" in result.out


def test_refused_request(pki_dir: Path, tmp_path: Path, jobpki: Jobpki, openssl: Openssl) -> None:
    """A refusal exits with 1, one line on stderr, and nothing made."""
    openssl(
        *("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "bob.key", "-out", "bob.csr", "-subj", "/CN=bob"),
        *("-addext", "basicConstraints=CA:TRUE"),
    )
    result = jobpki("sign", pki_dir, tmp_path / "bob.csr", "client", "--role", "reader")
    assert (result.code, result.out) == (1, "")
    assert f"{tmp_path}/bob.csr asks to be a CA (basicConstraints CA:TRUE)" in result.err
    assert not (pki_dir / "bob.crt").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "a b", ".x"])
def test_name_that_is_no_file_name(pki_dir: Path, tmp_path: Path, jobpki: Jobpki, name: str) -> None:
    """A principal whose name is no file name needs --out; nothing is written anywhere else."""
    before = sorted(tmp_path.rglob("*"))
    result = jobpki("client", pki_dir, name, "--role", "reader")
    assert result.code == 1
    assert "--out STEM" in result.err
    assert sorted(tmp_path.rglob("*")) == before
    assert jobpki("client", pki_dir, name, "--role", "reader", "--out", "x").code == 0
    assert principal_of(load_certificate(pki_dir / "x.crt")).name == name


def test_ca_files_are_safe_from_force(pki_dir: Path, tmp_path: Path, jobpki: Jobpki) -> None:
    """No client, server or request named 'ca' replaces the CA."""
    jobpki("request", tmp_path, "client", "bob")
    (tmp_path / "bob.csr").rename(tmp_path / "ca.csr")
    assert jobpki("client", pki_dir, "ca", "--no-role", "--force").code == 1
    assert jobpki("server", pki_dir, "--host", "a", "--name", "ca", "--force").code == 1
    assert jobpki("sign", pki_dir, tmp_path / "ca.csr", "client", "--no-role", "--force").code == 1
    Authority.load(pki_dir)


def test_force(pki_dir: Path, jobpki: Jobpki) -> None:
    """Existing files stay, unless --force is given."""
    argv = ["client", pki_dir, "alice", "--role", "reader"]
    assert jobpki(*argv).code == 0
    before = (pki_dir / "alice.key").read_bytes()
    refused = jobpki(*argv)
    assert refused.code == 1
    assert "alice.key" in refused.err
    assert "--force" in refused.err
    assert (pki_dir / "alice.key").read_bytes() == before
    assert jobpki(*argv, "--force").code == 0
    assert (pki_dir / "alice.key").read_bytes() != before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["client", "{}/nowhere", "alice", "--no-role"], "there is no CA in"),
        (["server", "{}/pki", "--host", "a:1"], "neither an IP address nor a DNS name"),
        (["client", "{}/pki", "al\x1bice", "--no-role"], r"'al\x1bice'"),
        (["client", "{}/pki", "alice", "--no-role", "--days", "9999"], "would fit"),
        (["sign", "{}/pki", "{}/nothing.csr", "client", "--no-role"], "cannot read the certificate request"),
        (["show", "{}/nothing"], "No such file"),
        (["show", "{}"], "Is a directory"),
        (["show", "/dev/zero"], "longer than"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors(pki_dir: Path, tmp_path: Path, jobpki: Jobpki, argv: list[str], message: str) -> None:
    """Whatever is wrong is told in one escaped line on stderr, with exit status 1."""
    assert pki_dir == tmp_path / "pki"
    result = jobpki(*(arg.format(tmp_path) for arg in argv))
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["init"],
        ["server", "d"],
        ["client", "d", "alice", "--role", "admin"],
        ["client", "d", "alice", "--role", "reader", "--host", "a"],
        ["request", "d"],
        ["request", "d", "client", "alice", "--role", "reader"],
        ["sign", "d", "c"],
        ["sign", "d", "c", "server", "--role", "reader"],
        ["init", "d", "--days", "0"],
        ["init", "d", "--days", "1.5"],
        ["init", "d", "--days", "99999999999999"],
    ],
    ids=" ".join,
)
def test_usage_errors(jobpki: Jobpki, argv: list[str]) -> None:
    """A wrong command line exits with 2."""
    assert jobpki(*argv).code == 2


def test_help(jobpki: Jobpki) -> None:
    """Help exits with 0."""
    assert jobpki("--help").code == 0
    assert jobpki("sign", "--help").code == 0


def test_exposed_ca_key_is_warned_of(pki_dir: Path, jobpki: Jobpki) -> None:
    """A CA key that others can read still works, with a warning on stderr."""
    (pki_dir / "ca.key").chmod(0o644)
    result = jobpki("client", pki_dir, "alice", "--no-role")
    assert result.code == 0
    assert f"chmod 400 {pki_dir}/ca.key" in result.err


def test_a_ca_without_an_index_is_warned_of(pki_dir: Path, jobpki: Jobpki) -> None:
    """A CA that an older jobpki or openssl made works as before, and gets an index; a lost one is noticed."""
    (pki_dir / "index.jsonl").unlink()
    first = jobpki("client", pki_dir, "alice", "--no-role")
    assert (first.code, "index.jsonl is not there, and is begun" in first.err) == (0, True)
    assert jobpki("client", pki_dir, "bob", "--no-role").err == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_ca_key(pki_dir: Path, jobpki: Jobpki) -> None:
    """A CA key that may not be read is told by name."""
    (pki_dir / "ca.key").chmod(0)
    result = jobpki("client", pki_dir, "alice", "--no-role")
    assert result.code == 1
    assert "cannot read the CA key" in result.err


def test_interrupt(child: Child, tmp_path: Path) -> None:
    """Ctrl-C exits with 130 and no traceback."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([*child.argv, "show", fifo], cwd=child.cwd, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(fifo, os.O_WRONLY)  # returns when the child has opened the other end, and so is in show
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=patient(30))
        os.close(writer)
    assert (process.returncode, err) == (130, "jobpki: interrupted\n")


def test_full_disk(child: Child, pki_dir: Path) -> None:
    """Output that cannot be written is told, not raised."""
    with Path("/dev/full").open("w") as full:
        argv = [*child.argv, "show", str(pki_dir / "ca.crt")]
        ended = subprocess.run(argv, cwd=child.cwd, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "No space left" in ended.stderr


def test_plain_terminal(child: Child, pki_dir: Path, jobpki: Jobpki) -> None:
    """On a terminal that cannot show a name, it is printed as escapes."""
    assert jobpki("client", pki_dir, "Zoë", "--no-role").code == 0
    argv = [*child.argv, "show", str(pki_dir / "Zoë.crt")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(argv, cwd=child.cwd, env=environment, capture_output=True, text=True, check=True)
    assert r"principal: Zo\xeb" in ended.stdout
