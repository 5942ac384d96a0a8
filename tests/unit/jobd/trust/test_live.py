"""Trust while the server runs, in virtual time: what is taken, when, what is kept, and whose access ends for it."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.typing import EventDict
from trio.testing import MockClock

from api.rpc.access import Access
from jobd.trust.files import Files, Look, Snapshot
from jobd.trust.live import INTERVAL, LiveTrust
from pki.renewal import renew
from tests.support.live_pki import LivePki

DAY = timedelta(days=1)
TAKEN = "new certificates are in force"
KEPT = "new certificates cannot be used, the old stay in force"
REFUSED = "client refused"


class Clock:
    """A wall clock that is set. (Time itself, as the tasks know it, is the autojump clock's.)"""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class WatchedFiles(Files):
    """Counts what is done with them, and does something in between.

    Attributes:
        looks, reads: so far.
        meanwhile: called after they were read.
    """

    looks = reads = 0
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def look(self) -> Look:
        self.looks += 1
        return super().look()

    def read(self) -> Snapshot:
        self.reads += 1
        snapshot = super().read()
        self.meanwhile()
        return snapshot


@pytest.fixture
def ours(tmp_path: Path) -> LivePki:
    return LivePki.grow(tmp_path / "pki")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(ours: LivePki) -> WatchedFiles:
    return WatchedFiles(ours.certificate("server"), ours.key("server"), ours.ca, None, ours.crl)


@pytest.fixture
async def live(files: WatchedFiles, clock: Clock) -> AsyncIterator[LiveTrust]:
    """Of a server that runs."""
    async with running(LiveTrust(files, demanding=True, now=clock)) as live:
        yield live


@asynccontextmanager
async def running(live: LiveTrust) -> AsyncIterator[LiveTrust]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        yield live
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Let (virtual) time pass until it holds."""
    while not condition():
        await trio.sleep(INTERVAL)


async def some_looks(files: WatchedFiles) -> None:
    """Let the files be looked at, more often than it takes to take them."""
    seen = files.looks
    await until(lambda: files.looks >= seen + 5)


def ders(pki: LivePki, name: str) -> tuple[bytes, ...]:
    """The chain that a client with this certificate has."""
    paths = (pki.certificate(name), pki.ca)
    return tuple(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) for path in paths)


def said(log: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in log if entry["event"] == event]


def reason(access: Access) -> str:
    return access.refusal.reason if access.refusal else ""


# ---- files


async def test_new_files_are_taken_once(
    ours: LivePki,
    live: LiveTrust,
    log_guard: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """New connections have the new context from then on."""
    before = live.trust
    ours.server_again()
    await until(lambda: live.trust is not before)
    assert live.trust.context is not before.context
    [line] = said(log_guard, TAKEN)
    assert line["changed"] == [str(ours.certificate("server")), str(ours.key("server"))]


async def test_a_change_is_taken_at_the_second_look(
    ours: LivePki, files: WatchedFiles, live: LiveTrust, autojump_clock: MockClock
) -> None:
    """Which is a second after the change at the latest; the third look is that after reading."""
    assert 2 * INTERVAL <= 1
    before = live.trust
    await some_looks(files)
    ours.sign_list()
    looks = files.looks
    await until(lambda: live.trust is not before)
    assert files.looks - looks in (3, 4)  # one of them may have begun before


async def test_files_that_are_as_they_were_are_not_read(
    files: WatchedFiles,
    live: LiveTrust,
    autojump_clock: MockClock,
) -> None:
    """A look is all that a quiet day costs."""
    await some_looks(files)
    assert files.reads == 1


async def test_files_are_taken_when_they_have_settled(
    ours: LivePki, files: WatchedFiles, live: LiveTrust, autojump_clock: MockClock
) -> None:
    """Certificate and key are written one after the other, and the key much later than the certificate: nothing is
    read as long as something changes from one look to the next."""
    before, count = live.trust, itertools.count()

    def write_on() -> Look:
        if next(count) < 20:
            assert files.reads == 1
            ours.certificate("server").touch()
        return Files.look(files)

    ours.server_again()
    files.look = write_on  # type: ignore[method-assign] # a disk on which somebody writes
    await until(lambda: live.trust is not before)
    assert next(count) > 20
    assert files.reads == 2


async def test_what_changes_while_it_is_read_is_read_again(
    ours: LivePki,
    files: WatchedFiles,
    live: LiveTrust,
    log_guard: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """A set of files of which one is newer than the rest is never in force, and no reason to complain."""
    before = live.trust
    files.meanwhile = lambda: ours.server_again() if files.reads == 2 else None
    ours.server_again()
    await until(lambda: live.trust is not before)
    assert files.reads == 3
    assert live.trust.digests[files.key] == sha256(files.key.read_bytes()).digest()
    assert len(said(log_guard, TAKEN)) == 1


async def test_a_broken_file_keeps_the_old_in_force_loudly(
    ours: LivePki,
    files: WatchedFiles,
    live: LiveTrust,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """Each change that cannot be used is told once, and that it is over."""
    before, key = live.trust, files.key.read_bytes()
    files.key.write_bytes(ours.key("alice").read_bytes())
    await until(lambda: said(log_guard, KEPT))
    await some_looks(files)
    [line] = said(log_guard, KEPT)
    assert (line["log_level"], live.trust is before) == ("error", True)
    assert "does not belong to the certificate" in line["error"]
    files.key.unlink()
    await until(lambda: len(said(log_guard, KEPT)) == 2)
    assert "cannot read the private key" in said(log_guard, KEPT)[1]["error"]
    files.key.write_bytes(key)
    await until(lambda: said(log_guard, TAKEN))
    assert len(said(log_guard, KEPT)) == 2


async def test_what_comes_back_is_told(
    ours: LivePki,
    files: WatchedFiles,
    live: LiveTrust,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """The very files that are in force, put back: nothing to be taken, and no trouble any more."""
    before, aside = live.trust, files.key.with_name("aside")
    files.key.rename(aside)
    files.look()
    await until(lambda: said(log_guard, KEPT))
    # A rename changes the time of change, so this is what a mount that comes back looks like.
    loaded = live._loaded
    aside.rename(files.key)
    files.look = lambda: loaded  # type: ignore[method-assign] # see above
    await until(lambda: said(log_guard, "the files of certificates are as those in force again"))
    assert live.trust is before


async def test_what_time_alone_makes_good_is_taken(
    ours: LivePki,
    files: WatchedFiles,
    clock: Clock,
    live: LiveTrust,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """A certificate that is not valid yet is told of once, though it is tried again; and taken when it is valid."""
    ours.sign_list(lifetime=10 * DAY)
    ours.server_again(not_before=clock.now + DAY, not_after=clock.now + 90 * DAY)
    await until(lambda: said(log_guard, KEPT))
    reads = files.reads
    await until(lambda: files.reads >= reads + 3)
    clock.now += 2 * DAY
    await until(lambda: said(log_guard, TAKEN))
    assert len(said(log_guard, KEPT)) == 1


async def test_no_file_is_too_strange(
    ours: LivePki,
    files: WatchedFiles,
    live: LiveTrust,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """An error that nobody thought of does not end the server either."""

    def fail() -> None:
        raise RuntimeError("what nobody thought of")

    files.meanwhile = fail
    ours.server_again()
    await until(lambda: said(log_guard, KEPT))
    assert isinstance(said(log_guard, KEPT)[0]["exc_info"], RuntimeError)


async def test_what_cannot_be_read_again_stays(
    ours: LivePki, files: WatchedFiles, clock: Clock, log_guard: list[EventDict], autojump_clock: MockClock
) -> None:
    """A server without privileges keeps its key, and a certificate that was renewed for that is taken all the same."""
    live = LiveTrust(files, demanding=True, now=clock)
    key = files.key.read_bytes()
    files.key.unlink()
    live.pin()
    [line] = [entry for entry in log_guard if entry["log_level"] == "warning"]
    assert line["files"] == [str(files.key)]
    async with running(live):
        before = live.trust
        files.key.write_bytes(b"nobody looks at it")
        await some_looks(files)
        assert live.trust is before
        renew(ours.authority, files.certificate, now=clock.now)
        await until(lambda: live.trust is not before)
    assert live.trust.digests[files.key] == sha256(key).digest()
    assert said(log_guard, TAKEN)[0]["changed"] == [str(files.certificate)]


async def test_a_file_system_that_hangs_holds_nothing_else_up(
    ours: LivePki,
    files: WatchedFiles,
    live: LiveTrust,
    clock: Clock,
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """Whose time is over is refused all the same, and the server can end."""
    hangs, over = threading.Event(), threading.Event()

    def hang() -> Look:
        hangs.set()
        over.wait()
        return ()

    files.look = hang  # type: ignore[method-assign] # a server of files that is away
    try:
        await until(hangs.is_set)
        with live.admitted(ders(ours, "alice"), "peer") as access:
            clock.now += 400 * DAY
            await until(lambda: access.refusal)
    finally:
        over.set()


# ---- clients


async def test_whoever_is_revoked_loses_access(
    ours: LivePki,
    live: LiveTrust,
    log_guard: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """On every connection, and nobody else on any; the log says who."""
    told = []
    with (
        live.admitted(ders(ours, "rita"), "there:1") as first,
        live.admitted(ders(ours, "rita"), "there:2") as second,
        live.admitted(ders(ours, "alice"), "there:3") as alice,
    ):
        first.on_refused = lambda: told.append(1)
        alice.on_refused = lambda: told.append(3)
        assert (reason(first), reason(alice)) == ("", "")
        ours.revoke("rita")
        await until(lambda: first.refusal and second.refusal)
        assert (reason(first), reason(second), reason(alice)) == ("CERTIFICATE_REVOKED", "CERTIFICATE_REVOKED", "")
        await some_looks(live._files)  # type: ignore[arg-type] # they are
    assert told == [1]
    lines = said(log_guard, REFUSED)
    assert sorted(line["peer"] for line in lines) == ["there:1", "there:2"]
    assert {line["principal"] for line in lines} == {"rita"}


async def test_whoever_comes_revoked_is_refused_at_once(
    ours: LivePki,
    live: LiveTrust,
    autojump_clock: MockClock,
) -> None:
    """TLS does not know; here it is known before the first call."""
    rita = ders(ours, "rita")
    before = live.trust
    ours.revoke("rita")
    await until(lambda: live.trust is not before)
    with live.admitted(rita, "peer") as access:
        assert reason(access) == "CERTIFICATE_REVOKED"


async def test_whoever_expires_loses_access(
    ours: LivePki,
    clock: Clock,
    live: LiveTrust,
    autojump_clock: MockClock,
) -> None:
    """At that moment, by a clock that goes or is set."""
    ours.client("brief", lifetime=timedelta(minutes=2))
    with live.admitted(ders(ours, "brief"), "peer") as brief, live.admitted(ders(ours, "alice"), "peer") as alice:
        clock.now += timedelta(minutes=1, seconds=50)
        await trio.sleep(10 * INTERVAL)
        assert not brief.refusal
        clock.now += timedelta(seconds=10)
        await trio.sleep(2 * INTERVAL)
        assert (reason(brief), reason(alice)) == ("CERTIFICATE_EXPIRED", "")


async def test_a_clock_that_was_wrong_silences_nothing(
    clock: Clock,
    live: LiveTrust,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """What ends is told of daily, also after the clock was years ahead for a moment."""
    now = clock.now
    clock.now += 10000 * DAY
    await until(lambda: said(log_guard, "something has expired; a new one is needed"))
    clock.now = now + timedelta(hours=23)
    await trio.sleep(2 * INTERVAL)
    assert said(log_guard, "something expires soon; a new one is needed")


async def test_a_ca_that_is_taken_away_takes_its_clients_along(
    ours: LivePki,
    files: WatchedFiles,
    clock: Clock,
    tmp_path: Path,
    autojump_clock: MockClock,
) -> None:
    """In a change-over both are trusted; when the old one is removed, its clients go, at once."""
    new = LivePki.grow(tmp_path / "new", "new CA")
    only_old, only_new = ours.ca.read_bytes(), new.ca.read_bytes()
    both_lists = ours.crl.read_bytes() + new.crl.read_bytes()
    files.crl.write_bytes(both_lists)  # type: ignore[union-attr] # it is there
    async with running(LiveTrust(files, demanding=True, now=clock)) as live:
        with live.admitted(ders(ours, "alice"), "peer") as old_alice:
            before = live.trust
            ours.ca.write_bytes(only_old + only_new)
            await until(lambda: live.trust is not before)
            with live.admitted(ders(new, "alice"), "peer") as new_alice:
                assert not old_alice.refusal
                ours.ca.write_bytes(only_new)
                await until(lambda: old_alice.refusal)
                assert (reason(old_alice), reason(new_alice)) == ("CA_NOT_TRUSTED", "")


@pytest.mark.parametrize(("demanding", "then"), [(True, "REVOCATION_UNKNOWN"), (False, "")])
async def test_a_list_that_runs_out(
    ours: LivePki,
    files: WatchedFiles,
    clock: Clock,
    demanding: bool,
    then: str,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """Is told, and everybody has to go with hard-fail: who knows whether they are revoked. A new list heals it."""
    async with running(LiveTrust(files, demanding=demanding, now=clock)) as live:
        with live.admitted(ders(ours, "alice"), "peer") as access:
            clock.now += 1.5 * DAY
            await until(lambda: said(log_guard, "something has expired; a new one is needed"))
            await trio.sleep(2 * INTERVAL)
            assert reason(access) == then
        before = live.trust
        ours.sign_list(lifetime=3 * DAY)
        await until(lambda: live.trust is not before)
        with live.admitted(ders(ours, "alice"), "peer") as access:
            assert not access.refusal


async def test_who_knows_nothing_says_so(
    ours: LivePki,
    files: WatchedFiles,
    clock: Clock,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    autojump_clock: MockClock,
) -> None:
    """With soft-fail and no list there is an ERROR at the start, and the list is taken when it comes."""
    crl = ours.crl.read_bytes()
    ours.crl.unlink()
    async with running(LiveTrust(files, demanding=False, now=clock)) as live:
        await until(lambda: said(log_guard, "it is not known who is revoked, and nobody is kept out for that"))
        ours.crl.write_bytes(crl)
        await until(lambda: live.trust.lists)
        assert live.trust.gaps == ()


async def test_a_list_that_was_out_of_reach_is_tried_again(
    ours: LivePki,
    clock: Clock,
    log_guard: list[EventDict],
    errors_expected: list[EventDict],
    tmp_path: Path,
    autojump_clock: MockClock,
) -> None:
    """What was in its way need not be seen at the file; and it is told once."""
    directory = tmp_path / "lists"
    directory.mkdir()
    crl = ours.crl.rename(directory / "ca.crl")
    directory.chmod(0o707)
    files = WatchedFiles(ours.certificate("server"), ours.key("server"), ours.ca, None, crl)
    async with running(LiveTrust(files, demanding=False, now=clock)) as live:
        await until(lambda: files.reads >= 3 or files.looks >= 300)
        assert len(said(log_guard, "it is not known who is revoked, and nobody is kept out for that")) == 1
        assert not live.trust.lists
        directory.chmod(0o700)
        seen = files.looks
        await until(lambda: live.trust.lists or files.looks >= seen + 100)
        assert live.trust.lists
        reads, looks = files.reads, files.looks
        await until(lambda: files.looks >= looks + 50)
        assert files.reads == reads
    assert len(said(log_guard, TAKEN)) == 1


async def test_a_chain_that_cannot_be_parsed_has_no_access(
    live: LiveTrust,
    autojump_clock: MockClock,
) -> None:
    """OpenSSL takes what another parser does not: then nobody knows who it is."""
    for chain in ((), (b"nonsense", b"nonsense")):
        with live.admitted(chain, "peer") as access:
            assert reason(access) == "CERTIFICATE_UNREADABLE"


async def test_a_name_that_is_no_text_is_refused_like_any_other(
    ours: LivePki, live: LiveTrust, log_guard: list[EventDict], autojump_clock: MockClock
) -> None:
    """It is parsed late, when the log is to have it; and the log does without."""
    ours.client("mallory")
    leaf, ca = ders(ours, "mallory")
    with live.admitted((leaf.replace(b"mallory", b"mall\xffry"), ca), "peer") as access:
        ours.revoke("mallory")
        await until(lambda: access.refusal)
    assert reason(access) == "CERTIFICATE_REVOKED"
    assert [line["principal"] for line in said(log_guard, REFUSED)] == [None]


async def test_who_cannot_be_judged_has_no_access(
    ours: LivePki, files: WatchedFiles, clock: Clock, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """An error that nobody thought of refuses that client, and ends nothing else."""
    live = LiveTrust(files, demanding=True, now=clock)
    live.trust = dataclasses.replace(live.trust, anchors=None)  # type: ignore[arg-type] # what nobody thought of
    with live.admitted(ders(ours, "alice"), "peer") as access:
        assert reason(access) == "CERTIFICATE_UNREADABLE"
    assert len(said(log_guard, "a client could not be judged")) == 1


async def test_who_comes_refused_keeps_nobody_out(
    ours: LivePki, files: WatchedFiles, autojump_clock: MockClock
) -> None:
    """Only so many such connections are there at a time; the oldest makes room."""
    ours.revoke("rita")
    async with running(LiveTrust(files, demanding=True, told=2)) as live:
        with ExitStack() as stack:
            come = [stack.enter_context(live.admitted(chain, "peer")) for chain in (ders(ours, "rita"), (), (), ())]
            assert all(access.refusal for access in come)
            assert [access.linger > 0 for access in come] == [False, False, True, True]
        with live.admitted(ders(ours, "rita"), "peer") as access:
            assert access.linger > 0


async def test_who_has_left_is_forgotten(
    ours: LivePki,
    live: LiveTrust,
    autojump_clock: MockClock,
) -> None:
    """Nothing is kept of a connection that is over."""
    with live.admitted(ders(ours, "alice"), "peer"):
        assert len(live._clients) == 1
    assert not live._clients
