"""Whose access ends while the server runs, and why: revoked, expired, of a CA that is gone, or not to be judged."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from structlog.typing import EventDict
from trio.testing import MockClock

from jobd.trust.live import INTERVAL, LiveTrust
from tests.support.live_pki import LivePki
from tests.support.live_trust import (
    DAY,
    REFUSED,
    TAKEN,
    Clock,
    WatchedFiles,
    ders,
    reason,
    running,
    said,
    some_looks,
    until,
)


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
    ends = x509.load_pem_x509_certificate(ours.certificate("brief").read_bytes()).not_valid_after_utc
    with live.admitted(ders(ours, "brief"), "peer") as brief, live.admitted(ders(ours, "alice"), "peer") as alice:
        clock.now = ends - timedelta(seconds=1)
        await trio.sleep(10 * INTERVAL)
        assert not brief.refusal
        clock.now = ends
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
