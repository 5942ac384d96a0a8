"""What the keys of a pool hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.pools.etcd import records
from jobd.pools.etcd.codec import Record, RecordTooLargeError, decode, encode
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Claim, JobState, Phase, Session
from tests.support.pool_steps import CHECKED

SESSION = Session(
    uid="u",
    instance="i",
    address="h:1",
    slots=2,
    labels={"gpu": "a100"},
    limits=("cpus", "memory"),
    accepting=False,
)
KINDS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("record", [SESSION, JobState(phase=Phase.PENDING), records.Queued(order=7), records.Drain()])
def test_a_record_comes_back(record: Record) -> None:
    """As it was, and no larger than it needs to be."""
    assert decode(type(record), b"k", encode(record)) == record
    assert b"null" not in encode(record)


def test_what_is_as_it_is_by_default_is_not_written() -> None:
    """There are many of these records."""
    assert encode(records.Queued()) == b"{}"
    assert encode(JobState(phase=Phase.PENDING)) == b'{"phase":"pending"}'


def test_fields_of_a_newer_jobd_are_kept() -> None:
    """An older one writes them again with what it changes."""
    read = decode(JobState, b"k", b'{"phase":"pending","zone":["x",1]}')
    written = encode(replace(read, phase=Phase.ASSIGNED, worker="w"))
    assert json.loads(written) == {"phase": "assigned", "worker": "w", "zone": ["x", 1]}


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"null", b"[]", b"\xff", b"{}", b"[" * 60_000, b'{"phase":"gone"}', b'{"phase":1}'),
        *(
            b'{"phase":"pending","attempt":%s}' % each
            for each in (b"-1", b"true", b"1.0", b"NaN", b"9223372036854775809")
        ),
        *(b'{"phase":"pending","worker":%s}' % each for each in (b"null", b'"' + b"w" * 64 + b'"')),
        b'{"phase":"pending","job":[]}',
    ],
)
def test_what_is_not_of_its_form_is_refused_whole(data: bytes) -> None:
    """With the key that holds it."""
    with pytest.raises(PoolDataError, match="/p/j/x") as caught:
        decode(JobState, b"/p/j/x", data)
    assert caught.value.key == b"/p/j/x"


@CHECKED
@given(st.sampled_from(KINDS), JSON)
def test_whatever_json_there_is_it_is_a_record_or_refused(kind: type[Record], value: Any) -> None:
    """A record that was read can be written."""
    try:
        record = decode(kind, b"k", json.dumps(value).encode())
    except PoolDataError:
        return
    assert decode(kind, b"k", encode(record)) == record


@CHECKED
@given(st.sampled_from(["labels", "limits", "slots", "accepting", "uid"]), JSON)
def test_a_field_that_is_another_thing_is_refused(name: str, value: Any) -> None:
    """Or it is of the right type, and then within its bounds."""
    facts = {**json.loads(encode(SESSION)), name: value}
    try:
        read = decode(Session, b"k", json.dumps(facts).encode())
    except PoolDataError:
        return
    assert type(getattr(read, name)) is type(getattr(SESSION, name))


def test_a_record_is_not_larger_than_it_would_be_read() -> None:
    """etcd takes 1.5 MiB in one request; nothing of ours comes near."""
    with pytest.raises(RecordTooLargeError, match="too large for the pool"):
        encode(Claim(worker="w", uid="u", epoch=1, intent="x" * 5000))
    with pytest.raises(PoolDataError, match="bytes"):
        decode(Claim, b"k", b" " * 5000)
    assert all(kind.MOST <= 256 * 1024 for kind in KINDS)
