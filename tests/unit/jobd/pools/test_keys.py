"""Where a pool keeps what."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.pool_errors import PoolDataError, PoolNameError
from tests.support.pool_steps import CHECKED

KEYS = Keys("jobd")
JOB = "0f9e8d7c-0000-4000-8000-000000000001"


@pytest.mark.parametrize("prefix", ["", "/", "a/b", "/jobd", "jobd/", ".", "..", "a" * 65, "ä", "a b", "a\0", "a\n"])
def test_a_prefix_is_one_word(prefix: str) -> None:
    """So no pool lies within another."""
    with pytest.raises(PoolNameError, match="one word"):
        Keys(prefix)


@pytest.mark.parametrize("name", ["", "/", "a/b", "-a", "a.", "a" * 64, "ä", "w\n", "../x"])
def test_a_workers_name_cannot_leave_its_place(name: str) -> None:
    """It is a part of keys that others list."""
    for key in (KEYS.member, KEYS.session, KEYS.drain, KEYS.assignments):
        if name or key != KEYS.assignments:
            with pytest.raises(PoolNameError):
                key(name)
    with pytest.raises(PoolNameError):
        KEYS.assigned(name, JOB)


@pytest.mark.parametrize("job", ["", "x", JOB.upper(), JOB + "/1", JOB[:-1]])
def test_a_jobs_id_is_a_uuid(job: str) -> None:
    """Whoever asks for another cannot name a key with it."""
    for key in (KEYS.spec, KEYS.state, KEYS.queued, KEYS.claim, KEYS.private):
        with pytest.raises(ValueError, match="not a job's id"):
            key(job)


@CHECKED
@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=128))
def test_a_request_is_found_again_by_its_key(principal: str, request_id: str) -> None:
    """Whatever characters peers have chosen; two requests have two keys, in two places of the tree."""
    key = KEYS.request(principal, request_id)
    *_, who, name = key.decode().split("/")
    assert unquote(who, errors="surrogatepass") == principal
    assert unquote(name, errors="surrogatepass") == request_id
    assert key.count(b"/") == 4
    assert key.isascii()


def test_a_request_is_not_endless() -> None:
    """Neither is it nobody's."""
    for principal, request_id in (("", "r"), ("p", ""), ("p", "ä" * 2000)):
        with pytest.raises(ValueError, match="empty, or too long"):
            KEYS.request(principal, request_id)


def test_what_is_made_of_a_key_comes_back() -> None:
    """The worker, the job and the time."""
    for key in (KEYS.member("w"), KEYS.session("w"), KEYS.drain("w"), KEYS.assigned("w", JOB)):
        assert KEYS.worker_of(key) == "w"
    for key in (KEYS.spec(JOB), KEYS.private(JOB), KEYS.state(JOB), KEYS.queued(JOB), KEYS.assigned("w", JOB)):
        assert KEYS.job_of(key) == JOB
    for key in (KEYS.claim(JOB), KEYS.claim(JOB, 3), KEYS.ended(JOB, 17)):
        assert KEYS.job_of(key) == JOB
    assert KEYS.ended_at(KEYS.ended(JOB, 17)) == 17


@pytest.mark.parametrize(
    "key",
    [
        *(b"", b"/jobd", b"/jobd/", b"/other/j/" + JOB.encode(), b"/jobd/j/x", b"/jobd/j/" + JOB.encode() + b"/x"),
        *(b"/jobd/a/w", b"/jobd/e/1/" + JOB.encode()[:-1], b"/jobd/\xff", b"/jobd2/j/" + JOB.encode(), b"/jobd/up/"),
    ],
)
def test_a_key_of_somebody_else_is_none_of_ours(key: bytes) -> None:
    """It is refused, and not guessed at."""
    for part in (KEYS.worker_of, KEYS.job_of, KEYS.ended_at):
        with pytest.raises(PoolDataError):
            part(key)


def test_the_order_of_ends_is_that_of_their_times() -> None:
    """Also of times that no clock should show."""
    times = [-5, 0, 1, 9, 10, 10**18, 2**62, 2**80]
    keys = [KEYS.ended(JOB, at) for at in times]
    assert keys == sorted(keys)


def test_what_is_listed_of_one_worker_is_not_that_of_another() -> None:
    """Whose name only begins like its own."""
    assert not KEYS.assigned("w10", JOB).startswith(KEYS.assignments("w1"))
    assert KEYS.assigned("w1", JOB).startswith(KEYS.assignments())
