"""What of a job only its worker needs."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from jobd.pools.etcd.codec import encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.orders import end_facts, hash_of, job_from, order_of
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.private import KEY, Seal
from jobd.pools.etcd.records import JobState, Order, Phase
from jobd.pools.etcd.steps import Found
from jobd.pools.etcd.transaction import KeyValue
from jobd.worker.containment import Limits, Member, Receipt, Stopped
from jobd.worker.errors import InvalidSpecError
from jobd.worker.facts import spec_of
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State

KEYS = Keys("jobd")
ID = "0f9e8d7c-0000-4000-8000-000000000001"
AT = KEYS.private(ID)
FIRST, SECOND = os.urandom(KEY), os.urandom(KEY)
SECRET = JobSpec(("run",), secret_env={"TOKEN": "hunter2"}, stdin_data=b"hunter3", env={"A": "b"})


def job(spec: JobSpec, **fields: object) -> Job:
    return Job(ID, spec, State.PENDING, 5, started_by="ann", request_id="r", **fields)  # type: ignore[arg-type]


def test_secrets_go_to_etcd_sealed_and_apart() -> None:
    """Nothing that is readable there has a secret, or given stdin, in it; the worker gets all of it back."""
    order, private = order_of(KEYS, job(SECRET), Seal([FIRST]), roles=["jobd:writer"])
    for written in (encode(order), private):
        assert b"hunter" not in written
        assert b"aHVudGVyMw" not in written
    assert (order.private, order.stdin_bytes) == (True, 7)
    assert Seal([SECOND, FIRST]).join(spec_of(dict(order.spec)), AT, private) == SECRET


def test_without_a_key_secrets_are_refused() -> None:
    """Given stdin is not: it is no secret for this program. It goes apart all the same."""
    with pytest.raises(InvalidSpecError, match=r"spec\.secret_env: .* no key"):
        Seal().split(SECRET, AT)
    spec, private = Seal().split(replace(SECRET, secret_env={}), AT)
    assert spec.stdin_data == b""
    assert Seal().join(spec, AT, private).stdin_data == b"hunter3"


def test_a_job_with_nothing_private_has_no_such_key() -> None:
    """Most jobs."""
    assert Seal([FIRST]).split(JobSpec(("true",)), AT) == (JobSpec(("true",)), b"")


def test_what_is_private_is_of_one_job() -> None:
    """Whoever writes to etcd cannot give it to another, change it, or put something of his own in its place."""
    spec, private = Seal([FIRST]).split(SECRET, AT)
    other = KEYS.private(ID[:-1] + "2")
    _, plain = Seal().split(replace(SECRET, secret_env={}), AT)
    bent = bytes([*private[:-1], private[-1] ^ 1])
    for seal, at, value in [
        (Seal([FIRST]), other, private),
        (Seal([SECOND]), AT, private),
        (Seal([FIRST]), AT, bent),
        (Seal([FIRST]), AT, plain),
        (Seal([FIRST]), AT, b""),
        (Seal([FIRST]), AT, private[:5]),
        (Seal(), AT, private),
    ]:
        with pytest.raises(PoolDataError, match="sealed"):
            seal.join(spec, at, value)
    with pytest.raises(PoolDataError, match="another job"):
        Seal([FIRST]).join(replace(spec, secret_env={"OTHER": ""}), AT, private)


def test_an_order_names_the_key_that_opens_what_is_private() -> None:
    """And not the key. What is not private needs none."""
    seal = Seal([SECOND, FIRST])
    order, _ = order_of(KEYS, job(SECRET), seal)
    assert order.seal == seal.names[0] == Seal([SECOND]).names[0] != seal.names[1]
    assert SECOND.hex() not in order.seal
    assert [order_of(KEYS, job(JobSpec(("x",))), each)[0].seal for each in (seal, Seal())] == ["", ""]


def test_a_key_has_its_length() -> None:
    """A shorter one is a file that was cut."""
    with pytest.raises(ValueError, match="32 bytes"):
        Seal([b"short"])


def test_a_request_is_known_again_by_its_hash() -> None:
    """Everything that was asked for counts, but for secrets (their digest is slow) and the trace."""
    same = hash_of(SECRET)
    assert hash_of(replace(SECRET, secret_env={"TOKEN": "x"}, traceparent="t", secret_digest="d")) == same
    for spec in (
        replace(SECRET, stdin_data=b"x"),
        replace(SECRET, argv=("run", "x")),
        replace(SECRET, secret_env={"OTHER": "hunter2"}),
        replace(SECRET, limits=Limits(memory=9000)),
        replace(SECRET, worker_labels={"a": "b"}),
        replace(SECRET, retry_lost=1),
    ):
        assert hash_of(spec) != same


@pytest.mark.parametrize("spec", [JobSpec(("x", "y" * 300_000)), JobSpec(("x",), stdin_data=b"y" * 300_000)])
def test_a_spec_has_a_size(spec: JobSpec) -> None:
    """Smaller than on one machine: it goes through consensus, and every broker reads it."""
    with pytest.raises(InvalidSpecError, match="pass large input in a file"):
        order_of(KEYS, job(spec), Seal())


def found(state: JobState) -> Found:
    return Found(ID, KeyValue(KEYS.state(ID), encode(state), 3, 4), state)


def test_a_job_is_shown_as_the_pool_knows_it() -> None:
    """Waiting, with its worker, and with its end."""
    order, _ = order_of(KEYS, job(JobSpec(("x",))), Seal())
    assert job_from(KEYS, found(JobState(phase=Phase.PENDING)), order) == job(JobSpec(("x",)))
    claimed = job_from(KEYS, found(JobState(phase=Phase.CLAIMED, worker="w")), order)
    assert (claimed.state, claimed.worker) == (State.STARTING, "w")
    ended = replace(
        job(JobSpec(("x",))), state=State.SUCCEEDED, wait_status=0, ended_at=9, worker="w", signals=((15, "a"),)
    )
    assert job_from(KEYS, found(JobState(phase=Phase.ENDED, job=_through(end_facts(ended)))), order) == ended


def _through(facts: dict[str, object]) -> dict[str, object]:

    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]


@pytest.mark.parametrize("facts", [{}, {"id": ID, "state": "running", "created_at": 1}, {"id": "x", "state": "failed"}])
def test_an_end_that_is_none_is_refused(facts: dict[str, object]) -> None:
    """And not shown as something else."""
    order = Order(spec={"argv": ["x"], "name": "", "env": {}, "cwd": ""}, principal="p", created_at=1)
    with pytest.raises(PoolDataError):
        job_from(KEYS, found(JobState(phase=Phase.ENDED, job=facts)), order)


def test_an_end_fits_into_its_record() -> None:
    """What a stop found is left out when it is too much, and then words are cut."""
    processes = tuple(Stopped(Member(n, 1, "\x01" * 16, False), 9) for n in range(100))
    ended = replace(
        job(JobSpec(("x",))),
        state=State.STOPPED,
        receipt=Receipt(processes * 5, 500, 1, True, "p"),
        message="m" * 100_000,
    )
    facts = end_facts(ended)
    assert len(encode(JobState(phase=Phase.ENDED, job=facts))) < JobState.MOST
    assert facts["receipt"]["processes"] == []
