"""How etcd is named, what the ends of its calls mean, and its messages."""

from __future__ import annotations

import pytest

from api.errors import Code, ConfigError, RpcError, error_for
from api.protobuf import MalformedMessageError
from api.rpc.connection import NOT_GRPC
from jobd.pools.etcd import answers, errors, requests
from jobd.pools.etcd.client import end_of
from jobd.pools.etcd.endpoints import Endpoint, Etcd, Rotation
from tests.support.pki import TestPki


def test_an_etcd_is_its_members_and_our_certificate(pki: TestPki) -> None:
    """With all three files; IPv6 in brackets."""
    etcd = Etcd.at("etcd://a:2379,[::1]:2380", certificate=pki.certificate("alice"), key=pki.key("alice"), ca=pki.ca)
    assert [str(endpoint) for endpoint in etcd.endpoints] == ["a:2379", "[::1]:2380"]
    assert etcd.tls


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://a:1", "is no etcd"),
        ("a:1", "is no etcd"),
        ("etcd://", "is not an address"),
        ("etcd://a", "is not an address"),
        ("etcd://a:1,", "is not an address"),
        ("etcd://a:1,a:1", "stands twice"),
        ("etcd://" + ",".join(f"a:{port}" for port in range(1, 11)), "more than the 9"),
        ("etcd://a:1", "--pool-cert"),
        ("etcd+plaintext://a:1", "without TLS"),
        ("etcd+plaintext://192.0.2.1:1", "without TLS"),
        ("etcd+plaintext://127.0.0.1:1,192.0.2.1:1", "without TLS"),
    ],
)
def test_what_is_no_etcd_is_refused(address: str, said: str) -> None:
    """And the message says why."""
    with pytest.raises(ConfigError, match=said):
        Etcd.at(address)


def test_plaintext_is_for_loopback_and_has_no_certificates(pki: TestPki) -> None:
    """Nobody believes that it is safe because certificates were given."""
    assert Etcd.at("etcd+plaintext://127.0.0.1:1,[::1]:1").tls is None
    with pytest.raises(ConfigError, match="no certificates"):
        Etcd.at("etcd+plaintext://127.0.0.1:1", ca=pki.ca)


def test_a_round_asks_each_member_once_and_stays_where_it_was_left() -> None:
    """From the one that was asked last."""
    members = tuple(Endpoint("a", port) for port in range(3))
    rotation = Rotation(members, 1)
    assert [endpoint.port for endpoint in rotation.round()] == [1, 2, 0]
    assert rotation.current.port == 1
    for endpoint in rotation.round():
        if endpoint.port == 2:
            break
    assert rotation.current.port == 2


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a/", b"a0"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_the_end_of_a_prefix_comes_after_all_its_keys(prefix: bytes, end: bytes) -> None:
    """etcd's range_end; \\0 is the end of all keys."""
    assert end_of(prefix) == end


@pytest.mark.parametrize(
    ("code", "text", "kind", "certain"),
    [
        (Code.UNAVAILABLE, "etcdserver: no leader", errors.StoreUnavailableError, True),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", errors.StoreUnavailableError, True),
        (Code.UNKNOWN, "raft proposal dropped", errors.StoreUnavailableError, True),
        (Code.UNAVAILABLE, "etcdserver: request timed out", errors.StoreUnavailableError, False),
        (Code.UNAVAILABLE, "etcdserver: leader changed", errors.StoreUnavailableError, False),
        (Code.UNAVAILABLE, "the connection to the server was lost", errors.StoreUnavailableError, False),
        (Code.DEADLINE_EXCEEDED, "", errors.StoreUnavailableError, False),
        (Code.CANCELLED, "the peer gave up the call", errors.StoreUnavailableError, False),
        (Code.UNKNOWN, "what nobody knows", errors.StoreUnavailableError, False),
        (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", errors.StoreFullError, True),
        (Code.INVALID_ARGUMENT, "etcdserver: request is too large", errors.TooLargeError, True),
        (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max", errors.TooLargeError, True),
        (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", errors.CompactedError, True),
        (Code.NOT_FOUND, "etcdserver: requested lease not found", errors.LeaseGoneError, True),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", errors.DeniedError, True),
        (Code.UNIMPLEMENTED, "unknown service", errors.NotEtcdError, True),
        (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", errors.RejectedError, True),
    ],
)
def test_what_the_end_of_a_call_means(code: Code, text: str, kind: type[errors.EtcdError], certain: bool) -> None:
    """What is not known to be certain is ambiguous, for what writes and for nothing else."""
    error = errors.from_rpc(error_for(int(code))(text), "a:1", writes=True)
    assert type(error) is kind
    assert error.ambiguous is not certain
    assert not errors.from_rpc(error_for(int(code))(text), "a:1", writes=False).ambiguous


def test_an_answer_that_is_not_grpc_is_not_etcds() -> None:
    """Who gave it may have passed the call on."""
    error = errors.from_rpc(RpcError("the server's answer is not gRPC", reason=NOT_GRPC), "a:1", writes=True)
    assert type(error) is errors.NotEtcdError
    assert error.ambiguous


def test_an_answer_that_is_too_large_for_us_was_given_to_what_was_done() -> None:
    """So a write is in doubt."""
    too_large = error_for(int(Code.RESOURCE_EXHAUSTED))("a message of …", reason="MESSAGE_TOO_LARGE")
    assert errors.from_rpc(too_large, "a:1", writes=True).ambiguous


def test_etcds_words_are_one_line_of_a_log() -> None:
    """Whatever somebody there says."""
    error = errors.from_rpc(error_for(2)("\x1b[2J\n" + "x" * 1000), "a:1", writes=True)
    assert str(error).isprintable()
    assert len(str(error)) < 300


def test_a_watch_asks_for_fragments() -> None:
    """Or a transaction with many large keys would be an answer over the limit."""
    assert requests.watch(b"a", b"b", 300) == bytes.fromhex("0a0b 0a0161 120162 18ac02 4001")


@pytest.mark.parametrize("data", ["0a", "0a05", "0aff", "ffffffffffffffffffffff01", "0b", "12020a05"])
def test_what_is_no_message_is_told(data: str) -> None:
    """Cut, too long, or of a type that proto3 does not have."""
    with pytest.raises(MalformedMessageError):
        answers.ranged(bytes.fromhex(data))
