"""Which files are taken while the server runs, when, and what is kept in force instead."""

from __future__ import annotations

import itertools
import os
import threading
import time
from hashlib import sha256

from structlog.typing import EventDict
from trio.testing import MockClock

from jobd.trust.files import Files, Look
from jobd.trust.live import INTERVAL, LiveTrust
from pki.renewal import renew
from tests.support.live_pki import LivePki
from tests.support.live_trust import (
    DAY,
    KEPT,
    TAKEN,
    Clock,
    WatchedFiles,
    ders,
    running,
    said,
    some_looks,
    until,
)


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
    assert 2 * INTERVAL < 0.9  # and then there is something to be done
    before = live.trust
    await some_looks(files)
    changed_at: list[int] = []

    def look() -> Look:
        if not changed_at:
            changed_at.append(files.looks)
            ours.sign_list()
        return WatchedFiles.look(files)

    files.look = look  # type: ignore[method-assign] # so that it is known which look sees it first
    await until(lambda: live.trust is not before)
    assert files.looks - changed_at[0] in (3, 4)  # the next one may have begun


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
    before, count, times = live.trust, itertools.count(), itertools.count(time.time_ns())

    def write_on() -> Look:
        if next(count) < 20:
            assert files.reads == 1
            written = next(times)
            os.utime(ours.certificate("server"), ns=(written, written))
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
