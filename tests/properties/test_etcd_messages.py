"""etcd's messages by hand against the same as betterproto's classes."""

from __future__ import annotations

import contextlib

import betterproto
from hypothesis import given, settings
from hypothesis import strategies as st

from api import protobuf
from api.protobuf import MalformedMessageError
from jobd.pools.etcd import answers, requests
from jobd.pools.etcd.transaction import Compare, Delete, Get, KeyValue, Put, Step, Txn
from tests.support import etcd_messages as m

SHORT = st.binary(max_size=300)
REVISIONS = st.integers(0, 2**63 - 1)
STEPS = st.lists(
    st.one_of(st.builds(Put, SHORT, SHORT, REVISIONS), st.builds(Delete, SHORT), st.builds(Get, SHORT)), max_size=4
).map(tuple)
COMPARES = st.lists(st.builds(Compare, SHORT, st.sampled_from(["created", "modified"]), REVISIONS), max_size=3).map(
    tuple
)
KEYS = st.builds(KeyValue, SHORT, SHORT, REVISIONS, REVISIONS, REVISIONS)


@settings(deadline=None)
@given(st.builds(Txn, COMPARES, STEPS, STEPS))
def test_a_transaction_is_read_as_what_it_is(asked: Txn) -> None:
    """Each compare, and each step of each branch."""
    read = protobuf.decode(m.TxnRequest, requests.txn(asked))
    assert [compare(each) for each in read.compare] == list(asked.when)
    assert [step(each) for each in read.success] == list(asked.then)
    assert [step(each) for each in read.failure] == list(asked.otherwise)


def compare(read: m.Compare) -> Compare:
    assert read.result == 0
    if read.target == 1:
        return Compare(read.key, "created", read.create_revision)
    assert read.target == 2
    return Compare(read.key, "modified", read.mod_revision)


def step(read: m.RequestOp) -> Step:
    kind, _ = betterproto.which_one_of(read, "request")
    if kind == "request_put":
        return Put(read.request_put.key, read.request_put.value, read.request_put.lease)
    if kind == "request_range":
        return Get(read.request_range.key)
    return Delete(read.request_delete_range.key)


@settings(deadline=None)
@given(SHORT, SHORT, REVISIONS, REVISIONS)
def test_a_range_is_read_as_what_it_is(key: bytes, end: bytes, limit: int, revision: int) -> None:
    """Key, end, limit and revision."""
    read = protobuf.decode(m.RangeRequest, requests.range_(key, end, limit=limit, revision=revision))
    assert (read.key, read.range_end, read.limit, read.revision) == (key, end, limit, revision)


@settings(deadline=None)
@given(st.lists(KEYS, max_size=4), REVISIONS, st.booleans())
def test_keys_come_as_they_were_sent(found: list[KeyValue], revision: int, more: bool) -> None:
    """Of a range; what we do not need is skipped."""
    sent = m.RangeResponse(header=header(revision), kvs=[of(each) for each in found], more=more, count=7)
    assert answers.ranged(bytes(sent)) == answers.Range(tuple(found), revision, more)


@settings(deadline=None)
@given(st.lists(st.none() | KEYS, max_size=4), REVISIONS, st.booleans())
def test_outcomes_come_as_they_were_sent(found: list[KeyValue | None], revision: int, held: bool) -> None:
    """What was found by each Get, between the answers to other steps."""
    responses = [m.ResponseOp(response_put=m.PutResponse(header=header(revision)))]
    responses += [m.ResponseOp(response_range=m.RangeResponse(kvs=[of(each)] if each else [])) for each in found]
    read = answers.outcome(bytes(m.TxnResponse(header=header(revision), succeeded=held, responses=responses)))
    assert (read.held, read.revision, read.found) == (held, revision, tuple(found))


@settings(deadline=None)
@given(st.lists(KEYS, max_size=4), st.booleans(), st.booleans(), st.booleans(), REVISIONS)
def test_changes_come_as_they_were_sent(
    found: list[KeyValue], created: bool, canceled: bool, fragment: bool, compacted: int
) -> None:
    """Each second one a deletion."""
    events = [m.Event(type=number % 2, kv=of(each)) for number, each in enumerate(found)]
    sent = m.WatchResponse(
        header=header(9), watch_id=3, created=created, canceled=canceled, fragment=fragment, events=events,
        compact_revision=compacted, cancel_reason="why",
    )  # fmt: skip
    expected = tuple(
        answers.Deleted(each.key, each.modified) if number % 2 else each for number, each in enumerate(found)
    )
    assert answers.watched(bytes(sent)) == answers.Watched(expected, 9, created, canceled, compacted, "why", fragment)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused_or_read(data: bytes) -> None:
    """Nothing else happens, whatever comes."""
    readers = (answers.outcome, answers.ranged, answers.watched, answers.status, answers.lease_seconds)
    for reader in readers:
        with contextlib.suppress(MalformedMessageError):
            reader(data)


def header(revision: int) -> m.ResponseHeader:
    return m.ResponseHeader(cluster_id=2**64 - 1, member_id=2**63, revision=revision, raft_term=3)


def of(key: KeyValue) -> m.KeyValue:
    return m.KeyValue(
        key=key.key, value=key.value, create_revision=key.created, mod_revision=key.modified, lease=key.lease, version=4
    )
