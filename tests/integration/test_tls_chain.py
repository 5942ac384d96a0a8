"""Intermediate CAs in real handshakes: chains are sent, followed to the root that both sides trust, and no further."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.typing import EventDict

from api.client import JobClient
from api.errors import UnauthenticatedError, UnavailableError
from api.identity import Role
from pki.authority import Authority
from pki.ca_files import Chain
from pki.certificates import sign_certificate
from pki.intermediate import create_intermediate
from pki.keys import KeyKind, new_key
from pki.leaf_files import IssuedFiles
from pki.profiles import ca_extensions, principal_subject
from pki.validity import Validity
from tests.support.daemon import running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(10)


class RootOnly(TestPki):
    """The same, of a server that was given the root's certificate alone."""

    @property
    def ca(self) -> Path:
        return self.directory.parent / "root" / "ca.crt"


@dataclass(frozen=True)
class Tree:
    """A root, an intermediate CA below it, and in its directory the files of a server and a writer."""

    root: Authority
    sub: Authority
    pki: TestPki

    @classmethod
    def grow(cls, directory: Path, kind: KeyKind = KeyKind.P256, name: str = "root") -> Tree:
        now = datetime.now(UTC)
        root = Authority.create(directory / "root", now=now, name=name, path_length=1, kind=kind)
        sub = create_intermediate(root, directory / "sub", now=now, name=f"sub of {name}", kind=kind)
        sub.issue_server(sub.directory, ["localhost", "127.0.0.1"], now=now, kind=kind)
        sub.issue_client(sub.directory, "alice", [Role.WRITER], now=now, kind=kind)
        return cls(root, sub, TestPki(sub.directory))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Made once."""
    return Tree.grow(tmp_path_factory.mktemp("tree"))


@contextlib.asynccontextmanager
async def connected(server: str, files: IssuedFiles, ca: Path) -> AsyncIterator[JobClient]:
    """A client with these files."""
    with trio.fail_after(SECONDS):
        async with JobClient.connect(server, cert=files.certificate, key=files.key, ca=ca, retry_for=0) as client:
            yield client


def alice_of(tree: Tree) -> IssuedFiles:
    """The writer's files."""
    return IssuedFiles.named(tree.sub.directory, "alice")


async def assert_works(server: str, files: IssuedFiles, ca: Path) -> None:
    """A job is started and ends."""
    async with connected(server, files, ca) as client:
        job = await client.start(["true"])
        [ended] = await client.wait(job.id)
        assert ended.exit_code == 0


async def assert_refused(server: str, files: IssuedFiles, ca: Path) -> None:
    """The server says that it does not know the client's CA."""
    async with connected(server, files, ca) as client:
        with pytest.raises(UnauthenticatedError, match="not signed by the CA that the server trusts"):
            await client.workers()


@pytest.mark.parametrize("kind", list(KeyKind))
async def test_chains_on_both_sides(tmp_path: Path, kind: KeyKind) -> None:
    """With the files as jobpki makes them, keys of every kind, both sides accept each other."""
    tree = Tree.grow(tmp_path, kind)
    async with running_daemon(tree.pki, tmp_path / "state") as server:
        await assert_works(server, alice_of(tree), tree.sub.certificate_path)


async def test_the_root_is_enough(tree: Tree, tmp_path: Path) -> None:
    """Whoever trusts the root alone gets the rest of the chain in the handshake."""
    ca = tree.root.certificate_path
    async with running_daemon(RootOnly(tree.sub.directory), tmp_path / "state") as server:
        await assert_works(server, alice_of(tree), ca)


async def test_a_leaf_of_a_sister_is_accepted_too(tree: Tree, tmp_path: Path) -> None:
    """What is trusted is the root: any CA that it signed speaks for it."""
    now = datetime.now(UTC)
    sister = create_intermediate(tree.root, tmp_path / "sister", now=now, name="sister")
    alice = sister.issue_client(tmp_path, "alice", [Role.WRITER], now=now)
    async with running_daemon(tree.pki, tmp_path / "state") as server:
        await assert_works(server, alice, tree.root.certificate_path)


async def test_a_leaf_without_its_chain_is_refused(tree: Tree, tmp_path: Path, log_guard: list[EventDict]) -> None:
    """A client that sends its own certificate only, to a server that knows the root only, is told."""
    alone = tmp_path / "alice.crt"
    first = x509.load_pem_x509_certificate(alice_of(tree).certificate.read_bytes())
    alone.write_bytes(first.public_bytes(Encoding.PEM))
    files = IssuedFiles(alice_of(tree).key, alice_of(tree).csr, alone)
    ca = tree.root.certificate_path
    async with running_daemon(RootOnly(tree.sub.directory), tmp_path / "state") as server:
        await assert_refused(server, files, ca)
    assert "handshake refused" in [entry["event"] for entry in log_guard]


async def test_a_chain_to_another_root_is_refused(tree: Tree, tmp_path: Path) -> None:
    """A chain that is whole but ends elsewhere, in a root of the same name, opens nothing, on either side."""
    other = Tree.grow(tmp_path / "other")
    async with running_daemon(tree.pki, tmp_path / "state") as server:
        await assert_refused(server, alice_of(other), tree.root.certificate_path)
        async with connected(server, alice_of(tree), other.root.certificate_path) as client:
            with pytest.raises((UnauthenticatedError, UnavailableError), match="certificate"):
                await client.workers()


async def test_a_chain_longer_than_allowed_is_refused(tree: Tree, tmp_path: Path) -> None:
    """An intermediate CA that signs another in spite of its path length makes nothing that is accepted."""
    now = datetime.now(UTC)
    key, name = new_key(), principal_subject("too low")
    extensions = ca_extensions(key.public_key(), tree.sub.key_identifier)
    validity = Validity(now, tree.sub.certificate.not_valid_after_utc)
    forged = sign_certificate(tree.sub.key, tree.sub.certificate.subject, name, key.public_key(), validity, extensions)
    low = Authority(tmp_path / "low", Chain(forged, tree.sub.chain.all), key)
    low.write()
    mallory = low.issue_client(tmp_path, "mallory", [Role.WRITER], now=now)
    async with running_daemon(tree.pki, tmp_path / "state") as server:
        async with connected(server, mallory, tree.root.certificate_path) as client:
            with pytest.raises(UnauthenticatedError):
                await client.workers()
        await assert_works(server, alice_of(tree), tree.root.certificate_path)
