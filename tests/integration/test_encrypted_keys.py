"""jobd and its clients with keys that are encrypted: the passphrase comes from a file, and nowhere else."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import CredentialsError
from api.identity import Role
from api.tls import client_context, server_context
from jobd.config import load
from pki.authority import Authority
from tests.support.daemon import running_daemon
from tests.support.jobcli import Jobcli, environment_for
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(10)


@pytest.fixture
def sealed(tmp_path: Path) -> TestPki:
    """A server and a writer, both with encrypted keys, and their passphrases beside them."""
    now = datetime.now(UTC)
    ca = Authority.create(tmp_path / "sealed", now=now)
    ca.issue_server(ca.directory, ["localhost", "127.0.0.1"], now=now, passphrase=b"of the server")
    ca.issue_client(ca.directory, "alice", [Role.WRITER], now=now, passphrase=b"of alice")
    (ca.directory / "server.passphrase").write_text("of the server\n")
    (ca.directory / "alice.passphrase").write_text("of alice\r\nand more\n")
    return TestPki(ca.directory)


async def test_a_job_over_encrypted_keys(sealed: TestPki, tmp_path: Path) -> None:
    """With their passphrases' files both sides work as with plain keys."""
    state, secret = tmp_path / "state", sealed.directory / "server.passphrase"
    async with running_daemon(sealed, state, key_passphrase_file=secret) as server:
        mine = {**sealed.credentials("alice"), "key_passphrase_file": sealed.directory / "alice.passphrase"}
        with trio.fail_after(SECONDS):
            async with JobClient.connect(server, **mine) as client:
                job = await client.start(["true"])
                [ended] = await client.wait(job.id)
    assert ended.exit_code == 0


async def test_jobcli_reads_the_passphrase(sealed: TestPki, tmp_path: Path) -> None:
    """By flag, by variable, and by a profile in which the file is beside it."""
    state, secret = tmp_path / "state", sealed.directory / "server.passphrase"
    async with running_daemon(sealed, state, key_passphrase_file=secret) as server:
        profile = sealed.directory / "profile.toml"
        lines = [f'server = "{server}"', 'cert = "alice.crt"', 'key = "alice.key"', 'ca = "ca.crt"']
        profile.write_text("\n".join([*lines, 'key-passphrase-file = "alice.passphrase"']))
        jobcli = Jobcli(environment_for(sealed, tmp_path, server))
        bare = jobcli.but(JOBCLI_SERVER=None, JOBCLI_CERT=None, JOBCLI_KEY=None, JOBCLI_CA=None)
        await bare.ok("list", "--profile", str(profile))
        profile.write_text("\n".join(lines))
        passphrase = str(sealed.directory / "alice.passphrase")
        await bare.ok("list", "--profile", str(profile), "--key-passphrase-file", passphrase)
        await bare.but(JOBCLI_KEY_PASSPHRASE_FILE=passphrase).ok("list", "--profile", str(profile))
        told = await bare.fails("list", "--profile", str(profile))
        assert "is encrypted: give --key-passphrase-file" in told


@pytest.mark.parametrize("side", [server_context, client_context])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"xyzzy\n", r"the passphrase in .*x is not that of the private key .*alice\.key"),
        (b"\n", r"the first line of .*x is no passphrase"),
        (b"a" * 1024, r"the first line of .*x is no passphrase"),
        (None, "cannot read the passphrase .*x: No such file"),
    ],
    ids=["wrong", "empty", "too long", "missing"],
)
def test_bad_passphrases(sealed: TestPki, tmp_path: Path, side: object, content: bytes | None, message: str) -> None:
    """What is wrong is told before anything is served or asked, with the file's name and without its content."""
    assert callable(side)
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    files = {"certificate": sealed.certificate("alice"), "key": sealed.key("alice"), "ca": sealed.ca}
    with pytest.raises(CredentialsError, match=message) as caught:
        side(**files, passphrase=tmp_path / "x")
    assert "xyzzy" not in str(caught.value)


def test_no_passphrase(sealed: TestPki) -> None:
    """An encrypted key without one is told at once: OpenSSL would ask at the terminal, and wait."""
    with pytest.raises(CredentialsError, match="is encrypted: give --key-passphrase-file"):
        client_context(certificate=sealed.certificate("alice"), key=sealed.key("alice"), ca=sealed.ca)


def test_a_plain_key_needs_none(pki: TestPki, tmp_path: Path) -> None:
    """The file is not read for a key that is not encrypted."""
    files = {"certificate": pki.certificate("alice"), "key": pki.key("alice"), "ca": pki.ca}
    assert isinstance(client_context(**files, passphrase=tmp_path / "nothing"), ssl.SSLContext)


def test_the_setting(tmp_path: Path) -> None:
    """jobd takes it as a flag, from the environment, and from its file, as every setting."""
    needed = {"cert": "c", "key": "k", "ca": "a", "state": "s"}
    assert load(needed, {}, None).key_passphrase_file is None
    assert load(needed, {"JOBD_KEY_PASSPHRASE_FILE": "p"}, None).key_passphrase_file == Path("p")
    file = tmp_path / "jobd.toml"
    file.write_text('key-passphrase-file = "q"\n')
    assert load(needed, {}, file).key_passphrase_file == Path("q")
