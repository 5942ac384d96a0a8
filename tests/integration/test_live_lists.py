"""Revocation lists of a daemon that runs: bad ones, old ones, and whoever comes though revoked."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from api.address import parse_address
from api.errors import ConfigError, UnauthenticatedError, UnavailableError
from api.messages import JobState
from api.methods import LIST_WORKERS
from api.rpc import access
from api.rpc.channel import open_channel
from jobd.quota import Quota, QuotaPolicy
from pki.revocation import Reason, by_name, revoke
from tests.support.daemon import running_daemon
from tests.support.live_calls import (
    KEPT,
    NO_JOB,
    SECONDS,
    TAKEN,
    connect,
    first_of,
    said,
    until,
)
from tests.support.live_pki import LivePki


async def test_whoever_comes_with_a_revoked_certificate_is_told(ours: LivePki, tmp_path: Path) -> None:
    """From the start on, at the first call, once."""
    ours.revoke("alice")
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as server:
        with trio.fail_after(SECONDS):
            for call in (lambda client: client.start(["true"]), lambda client: first_of(client, NO_JOB)):
                async with connect(ours, server, "alice", retry_for=1000) as client:
                    with pytest.raises(UnauthenticatedError, match="was revoked"):
                        await call(client)
            async with connect(ours, server, "rita") as client:
                await client.workers()


async def test_whoever_comes_revoked_takes_no_place(
    ours: LivePki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections it makes, and holds: the oldest make room, and others get in at once."""
    monkeypatch.setattr(access, "LINGER", 100 * SECONDS)  # nobody has gone meanwhile by himself
    ours.revoke("alice")
    async with (
        running_daemon(ours, tmp_path / "state", crl=ours.crl, connections=8) as server,
        AsyncExitStack() as held,
    ):
        host, port = parse_address(server)
        with trio.fail_after(SECONDS):
            for _ in range(24):
                tcp = await trio.open_tcp_stream(host, port)
                stream = trio.SSLStream(tcp, ours.context("alice"), server_hostname=host)
                held.push_async_callback(trio.aclose_forcefully, stream)
                await stream.do_handshake()
            async with connect(ours, server, "rita") as client:
                await client.workers()


async def test_whoever_comes_revoked_takes_nothing_of_the_quota(
    ours: LivePki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a principal's, who may have another certificate by now, and somebody else the old one."""
    monkeypatch.setattr(access, "LINGER", 100 * SECONDS)
    stolen = ours.context("alice")
    ours.revoke("alice")
    ours.client("alice")
    quota = QuotaPolicy(Quota(connections=1))
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl, quota=quota) as server:
        host, port = parse_address(server)
        with trio.fail_after(SECONDS):
            async with open_channel(host, port, stolen) as held:
                with pytest.raises(UnauthenticatedError, match="was revoked"):
                    await held.unary(LIST_WORKERS, LIST_WORKERS.request())
                async with connect(ours, server, "alice") as client:
                    await client.workers()
                    with pytest.raises(UnauthenticatedError, match="was revoked"):
                        await held.unary(LIST_WORKERS, LIST_WORKERS.request())


async def test_without_a_list_nobody_is_asked(ours: LivePki, tmp_path: Path) -> None:
    """The setting is what turns it on."""
    ours.revoke("alice")
    async with running_daemon(ours, tmp_path / "state") as server, connect(ours, server, "alice") as client:
        await client.workers()


@pytest.fixture(params=["missing", "stale", "foreign"])
def bad_list(request: pytest.FixtureRequest, ours: LivePki, tmp_path: Path) -> Path:
    """A revocation list that says nothing of our clients."""
    path = tmp_path / "bad.crl"
    if request.param == "stale":
        ours.sign_list(path, now=datetime.now(UTC) - timedelta(days=3))
    elif request.param == "foreign":
        path.write_bytes(LivePki.grow(tmp_path / "other").crl.read_bytes())
    return path


async def test_a_bad_list_stops_the_start(ours: LivePki, tmp_path: Path, bad_list: Path) -> None:
    """hard-fail, the default: nothing is served."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running_daemon(ours, tmp_path / "state", crl=bad_list):
            pass
    [error] = caught.value.exceptions
    assert isinstance(error, ConfigError)
    assert str(bad_list) in str(error)
    assert not (tmp_path / "state").exists()


async def test_a_bad_list_can_be_done_without(
    ours: LivePki, tmp_path: Path, bad_list: Path, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """soft-fail: clients are let in, and the log says so as an ERROR; the first good list is taken."""
    async with running_daemon(ours, tmp_path / "state", crl=bad_list, crl_policy="soft-fail") as server:
        with trio.fail_after(SECONDS):
            await until(lambda: said(log_guard, "it is not known who is revoked, and nobody is kept out for that"))
            async with connect(ours, server, "rita") as client:
                await client.workers()
                now = datetime.now(UTC)
                revoke(ours.directory, by_name(ours.directory, "rita", now), Reason.SUPERSEDED, now)
                ours.sign_list(bad_list.with_name("good.crl")).rename(bad_list)
                await until(lambda: said(log_guard, TAKEN))
                with pytest.raises(UnauthenticatedError, match="was revoked"):
                    await client.workers()


@pytest.mark.parametrize("policy", ["hard-fail", "soft-fail"])
async def test_a_bad_list_does_not_take_the_place_of_a_good_one(
    ours: LivePki, tmp_path: Path, bad_list: Path, policy: str, log_guard: list[EventDict], errors_expected: object
) -> None:
    """While jobd runs: whoever is revoked stays so, whatever becomes of the file, and by either policy."""
    missing = not bad_list.exists()
    ours.revoke("rita")
    in_force = tmp_path / "lists"
    in_force.write_bytes(ours.crl.read_bytes())
    async with running_daemon(ours, tmp_path / "state", crl=in_force, crl_policy=policy) as server:
        with trio.fail_after(SECONDS):
            if missing:
                in_force.unlink()
            else:
                bad_list.rename(in_force)
            await until(lambda: said(log_guard, KEPT))
            async with connect(ours, server, "rita") as client:
                with pytest.raises(UnauthenticatedError, match="was revoked"):
                    await client.workers()
            async with connect(ours, server, "alice") as client:
                await client.workers()


async def test_a_list_that_runs_out_ends_calls(
    ours: LivePki, tmp_path: Path, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """hard-fail: nobody is let in of whom it is not known whether they are revoked; the next list heals it."""
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as server:
        with trio.fail_after(SECONDS):
            async with connect(ours, server, "alice") as client:
                job = await client.start(["sh", "-c", "echo one; exec sleep 1000"])
                while not said(log_guard, TAKEN):  # a machine that is busy may look when one has run out already
                    ours.sign_list(lifetime=timedelta(seconds=3))
                    with trio.move_on_after(2):
                        await until(lambda: said(log_guard, TAKEN))
                with pytest.raises(UnauthenticatedError, match="it is not known here"):
                    await client.wait(job.id)
            ours.sign_list()
            async with connect(ours, server, "alice") as client:
                while True:  # who came before it is refused until it has to go, and may ask just then
                    with suppress(UnauthenticatedError, UnavailableError):
                        assert (await client.stop(job.id, grace=1)).state is JobState.STOPPED
                        break
                    await trio.sleep(0.05)
