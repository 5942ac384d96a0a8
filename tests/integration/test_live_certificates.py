"""Certificates and CAs that change under a daemon that runs, over real TLS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from structlog.typing import EventDict

from api.errors import UnauthenticatedError
from api.messages import JobState
from tests.support.daemon import running_daemon
from tests.support.live_calls import (
    KEPT,
    SECONDS,
    SOON,
    TAKEN,
    TICK,
    Follower,
    Ticks,
    audited,
    connect,
    said,
    serial_in,
    serial_of,
    until,
)
from tests.support.live_pki import LivePki
from tests.support.patience import patient


@pytest.fixture
async def server(ours: LivePki, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a daemon that reads the CA's list."""
    with trio.fail_after(SECONDS):
        async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as address:
            yield address


# ---- our own


async def test_a_renewed_certificate_is_used_from_then_on(
    ours: LivePki, server: str, tmp_path: Path, log_guard: list[EventDict]
) -> None:
    """By new connections, without a restart; calls that are open go on."""
    go, old, context = tmp_path / "go", serial_in(ours.certificate("server")), ours.context("alice")
    async with connect(ours, server, "alice") as client, trio.open_nursery() as nursery:
        job = await client.start(["sh", "-c", f"echo one; until [ -e {go} ]; do sleep 0.05; done; echo two"])
        follower = Follower()
        await nursery.start(follower.follow, client.stream(job.id))
        assert await serial_of(server, context) == old
        ours.server_again()
        await until(lambda: said(log_guard, TAKEN))
        assert await serial_of(server, context) == serial_in(ours.certificate("server")) != old
        go.touch()
    assert (follower.error, follower.received) == (None, b"one\ntwo\n")
    async with connect(ours, server, "alice") as client:
        await client.workers()


@pytest.mark.parametrize("broken", ["garbage", "another's", "expired", "half", "missing"])
async def test_broken_files_change_nothing(
    ours: LivePki, server: str, broken: str, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """The old stay in force for new connections, the log has one ERROR, and the next good files are taken."""
    key, certificate, ca = ours.key("server"), ours.certificate("server"), ours.ca.read_bytes()
    old, context = serial_in(certificate), ours.context("alice")
    match broken:
        case "garbage":
            key.write_bytes(b"garbage")
        case "another's":
            key.write_bytes(ours.key("alice").read_bytes())
        case "expired":
            now = datetime.now(UTC)
            ours.server_again(not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
        case "half":
            certificate.write_bytes(certificate.read_bytes()[:200])
        case "missing":
            ours.ca.unlink()
    await until(lambda: said(log_guard, KEPT))
    assert await serial_of(server, context) == old
    ours.ca.write_bytes(ca)
    ours.server_again()
    await until(lambda: said(log_guard, TAKEN))
    assert await serial_of(server, context) == serial_in(certificate) != old
    assert len(said(log_guard, KEPT)) == 1


async def test_an_encrypted_key_is_read_again(ours: LivePki, tmp_path: Path, log_guard: list[EventDict]) -> None:
    """With its new passphrase."""
    secret = ours.directory / "passphrase"
    secret.write_text("first")
    ours.server_again(passphrase=b"first")
    async with running_daemon(ours, tmp_path / "state", key_passphrase_file=secret) as server:
        with trio.fail_after(SECONDS):
            ours.server_again(passphrase=b"second")
            secret.write_text("second")
            await until(lambda: said(log_guard, TAKEN))
            assert await serial_of(server, ours.context("alice")) == serial_in(ours.certificate("server"))


async def test_our_own_end_is_told(ours: LivePki, tmp_path: Path, log_guard: list[EventDict]) -> None:
    """At the start, and not as an error as long as it is to come."""
    ours.server_again(lifetime=timedelta(days=3), not_before=datetime.now(UTC) - timedelta(days=60))
    async with running_daemon(ours, tmp_path / "state"):
        with trio.fail_after(SECONDS):
            await until(lambda: said(log_guard, "something expires soon; a new one is needed"))
    [line] = said(log_guard, "something expires soon; a new one is needed")
    assert (line["log_level"], line["file"]) == ("warning", str(ours.certificate("server")))


# ---- clients who are here


async def test_a_revocation_ends_open_calls(ours: LivePki, server: str, log_guard: list[EventDict]) -> None:
    """A stream, an attachment and a Wait end soon, as UNAUTHENTICATED and with an audit line that says why; further
    calls on that connection are refused, and on a new one. A neighbour's stream goes on."""
    ours.client("mallory")
    async with (
        connect(ours, server, "alice") as alice,
        connect(ours, server, "mallory", retry_for=1000) as mallory,
        trio.open_nursery() as nursery,
    ):
        job = await alice.start(["sh", "-c", "echo one; read line; echo two"], attachable=True)
        theirs = [Follower() for _ in range(3)]
        neighbour = Follower()
        await nursery.start(theirs[0].follow, mallory.stream(job.id))
        nursery.start_soon(theirs[1].wait, mallory, job.id)
        await nursery.start(theirs[2].follow, mallory.attach(job.id))
        await nursery.start(neighbour.follow, alice.stream(job.id))
        ticks = Ticks()
        nursery.start_soon(ticks.run)
        changed_at = time.monotonic()
        ours.revoke("mallory")
        ticks.count = 0
        await until(lambda: all(each.ended_at for each in theirs))
        assert ticks.count <= 1.0 / TICK, "within a second"
        for each in theirs:
            assert isinstance(each.error, UnauthenticatedError)
            assert (each.error.reason, each.error.message.count("revoked")) == ("CERTIFICATE_REVOKED", 1)
            assert each.ended_at - changed_at < SOON
        with pytest.raises(UnauthenticatedError, match="was revoked"):
            await mallory.query(job.id)
        async with connect(ours, server, "mallory", retry_for=1000) as again:
            with pytest.raises(UnauthenticatedError, match="was revoked"):
                await again.start(["true"])
        async with alice.attach(job.id, offset=4) as attachment:  # nobody is, any more
            await attachment.send(b"line\n")
            assert [chunk.data async for chunk in attachment] == [b"two\n"]
        await until(lambda: neighbour.ended_at)
        nursery.cancel_scope.cancel()
    assert (neighbour.error, neighbour.received) == (None, b"one\ntwo\n")
    refused = ("UNAUTHENTICATED", "CERTIFICATE_REVOKED")
    assert sorted(audited(log_guard, "mallory")) == [
        (method, *refused) for method in ("Attach", "Query", "Start", "Stream", "Wait")
    ]
    assert [line["reason"] for line in said(log_guard, "client refused")] == ["CERTIFICATE_REVOKED"] * 2


async def test_expiry_ends_open_calls(ours: LivePki, server: str, log_guard: list[EventDict]) -> None:
    """At the moment that the certificate names. A new connection does not get through the handshake."""
    async with connect(ours, server, "alice") as alice:
        job = await alice.start(["sh", "-c", "echo one; exec sleep 1000"])
        ours.client("brief", lifetime=timedelta(seconds=patient(3)))
        ends = x509.load_pem_x509_certificate(ours.certificate("brief").read_bytes()).not_valid_after_utc
        follower = Follower()
        async with connect(ours, server, "brief") as brief, trio.open_nursery() as nursery:
            await nursery.start(follower.follow, brief.stream(job.id))
            assert (await brief.query(job.id)).state is JobState.RUNNING
        late = datetime.now(UTC) - ends
        assert isinstance(follower.error, UnauthenticatedError)
        assert follower.error.reason == "CERTIFICATE_EXPIRED"
        assert timedelta() <= late < timedelta(seconds=SOON)
        async with connect(ours, server, "brief") as again:
            with pytest.raises(UnauthenticatedError, match="it has expired"):
                await again.query(job.id)
        await alice.stop(job.id, grace=1)
    assert audited(log_guard, "brief")[-1] == ("Stream", "UNAUTHENTICATED", "CERTIFICATE_EXPIRED")


async def test_a_change_of_the_ca(ours: LivePki, tmp_path: Path, log_guard: list[EventDict]) -> None:
    """Both CAs are trusted for a while, and both sides' certificates are changed; when the old CA is taken away, who
    still has a certificate of it has to go."""
    new = LivePki.grow(tmp_path / "new", "new CA")
    old_ca, new_ca = ours.ca.read_bytes(), new.ca.read_bytes()
    lists = tmp_path / "lists"
    lists.write_bytes(ours.crl.read_bytes())
    async with running_daemon(ours, tmp_path / "state", crl=lists) as server:
        with trio.fail_after(SECONDS):
            async with connect(ours, server, "alice") as late, trio.open_nursery() as nursery:
                lists.write_bytes(ours.crl.read_bytes() + new.crl.read_bytes())
                ours.ca.write_bytes(old_ca + new_ca)
                await until(lambda: len(said(log_guard, TAKEN)) == 1)
                job = await late.start(["sh", "-c", "echo one; exec sleep 1000"])
                goes, stays = Follower(), Follower()
                await nursery.start(goes.follow, late.stream(job.id))
                async with connect(new, server, "alice", ca=ours.ca) as early:
                    await nursery.start(stays.follow, early.stream(job.id))
                    for name in ("server.crt", "server.key"):
                        (ours.directory / name).write_bytes((new.directory / name).read_bytes())
                    await until(lambda: len(said(log_guard, TAKEN)) == 2)
                    assert goes.error is None
                    changed_at = time.monotonic()
                    ours.ca.write_bytes(new_ca)
                    await until(lambda: goes.ended_at)
                    assert isinstance(goes.error, UnauthenticatedError)
                    assert goes.error.reason == "CA_NOT_TRUSTED"
                    assert goes.ended_at - changed_at < SOON
                    with pytest.raises(UnauthenticatedError, match="not trusted here any more"):
                        await late.query(job.id)
                    await early.stop(job.id, grace=1)
                    await until(lambda: stays.ended_at)
                    assert stays.error is None
            async with connect(ours, server, "alice", ca=new.ca) as again:
                with pytest.raises(UnauthenticatedError, match="not signed by the CA that the server trusts"):
                    await again.workers()
