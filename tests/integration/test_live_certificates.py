"""Certificates, CAs and revocation lists that change under a daemon that runs, over real TLS."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from structlog.typing import EventDict

from api.address import parse_address
from api.client import JobClient
from api.errors import ConfigError, RpcError, UnauthenticatedError
from api.messages import JobState
from api.methods import LIST_WORKERS
from api.output import OutputStream
from api.rpc.access import LINGER
from api.rpc.channel import open_channel
from jobd.quota import Quota, QuotaPolicy
from pki.revocation import Reason, by_name, revoke
from tests.support.daemon import running_daemon
from tests.support.live_pki import LivePki

SECONDS = 20
SOON = 5.0
"""Seconds within which a change is noticed and calls have ended for it; about one, when the machine has nothing else
to do (tests/unit/jobd/trust counts the looks)."""
TAKEN = "new certificates are in force"
KEPT = "new certificates cannot be used, the old stay in force"
NO_JOB = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def ours(tmp_path: Path) -> LivePki:
    return LivePki.grow(tmp_path / "pki")


@pytest.fixture
async def server(ours: LivePki, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a daemon that reads the CA's list."""
    with trio.fail_after(SECONDS):
        async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as address:
            yield address


def connect(pki: LivePki, server: str, name: str, **changed: Any) -> Any:
    """As one of the clients; to fail at once when that does not work."""
    return JobClient.connect(server, **{**pki.credentials(name), "retry_for": 0, **changed})


async def until(condition: Callable[[], object]) -> None:
    """Until something is so that nothing tells of."""
    while not condition():
        await trio.sleep(0.005)


def said(log: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in log if entry["event"] == event]


def audited(log: list[EventDict], principal: str) -> list[tuple[str, str, str | None]]:
    """Method, status and reason of each call of somebody that has ended."""
    lines = [entry for entry in said(log, "call") if entry["principal"] == principal]
    return [(line["method"].rpartition("/")[2], line["status"], line["reason"]) for line in lines]


async def serial_of(server: str, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    host, port = parse_address(server)
    async with await trio.open_tcp_stream(host, port) as tcp:
        stream = trio.SSLStream(tcp, context, server_hostname=host)
        await stream.do_handshake()
        der = stream.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


async def first_of(client: JobClient, job_id: str) -> bytes:
    """The first piece of a job's output."""
    async with client.stream(job_id) as output:
        return (await anext(output)).data


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


class Follower:
    """Somebody with a call that lasts, and when and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.error: RpcError | None = None
        self.ended_at = 0.0

    async def follow(
        self, opened: AbstractAsyncContextManager[OutputStream], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Follow a stream, or an attachment; started when the first of it is there."""
        with self._ending():
            async with opened as output:
                async for chunk in output:
                    self.received += chunk.data
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED

    async def wait(self, client: JobClient, job_id: str) -> None:
        """Wait for a job's end."""
        with self._ending():
            await client.wait(job_id)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except RpcError as exc:
            self.error = exc
        self.ended_at = time.monotonic()


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
        changed_at = time.monotonic()
        ours.revoke("mallory")
        await until(lambda: all(each.ended_at for each in theirs))
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
    assert (neighbour.error, neighbour.received) == (None, b"one\ntwo\n")
    refused = ("UNAUTHENTICATED", "CERTIFICATE_REVOKED")
    assert sorted(audited(log_guard, "mallory")) == [
        (method, *refused) for method in ("Attach", "Query", "Start", "Stream", "Wait")
    ]
    assert [line["reason"] for line in said(log_guard, "client refused")] == ["CERTIFICATE_REVOKED"] * 2


async def test_expiry_ends_open_calls(ours: LivePki, server: str, log_guard: list[EventDict]) -> None:
    """At the moment that the certificate names. A new connection does not get through the handshake."""
    ours.client("brief", lifetime=timedelta(seconds=3))
    ends = x509.load_pem_x509_certificate(ours.certificate("brief").read_bytes()).not_valid_after_utc
    async with connect(ours, server, "brief") as brief, connect(ours, server, "alice") as alice:
        job = await alice.start(["sh", "-c", "echo one; exec sleep 1000"])
        follower = Follower()
        async with trio.open_nursery() as nursery:
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


# ---- lists


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


async def test_whoever_comes_revoked_takes_no_place(ours: LivePki, tmp_path: Path) -> None:
    """However many connections it makes, and holds: the oldest make room, and others get in at once."""
    ours.revoke("alice")
    async with (
        running_daemon(ours, tmp_path / "state", crl=ours.crl, connections=8) as server,
        AsyncExitStack() as held,
    ):
        host, port = parse_address(server)
        with trio.fail_after(LINGER):
            for _ in range(24):
                tcp = await trio.open_tcp_stream(host, port)
                stream = trio.SSLStream(tcp, ours.context("alice"), server_hostname=host)
                held.push_async_callback(trio.aclose_forcefully, stream)
                await stream.do_handshake()
            async with connect(ours, server, "rita") as client:
                await client.workers()


async def test_whoever_comes_revoked_takes_nothing_of_the_quota(ours: LivePki, tmp_path: Path) -> None:
    """It is a principal's, who may have another certificate by now, and somebody else the old one."""
    stolen = ours.context("alice")
    ours.revoke("alice")
    ours.client("alice")
    quota = QuotaPolicy(Quota(connections=1))
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl, quota=quota) as server:
        host, port = parse_address(server)
        with trio.fail_after(LINGER):
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
    ours.sign_list(lifetime=timedelta(seconds=3))
    async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as server:
        with trio.fail_after(SECONDS):
            async with connect(ours, server, "alice") as client:
                job = await client.start(["sh", "-c", "echo one; exec sleep 1000"])
                with pytest.raises(UnauthenticatedError, match="it is not known here"):
                    await client.wait(job.id)
            ours.sign_list()
            await until(lambda: said(log_guard, TAKEN))
            async with connect(ours, server, "alice") as client:
                assert (await client.stop(job.id, grace=1)).state is JobState.STOPPED
