"""The tables of ``api.protobuf`` against betterproto: the same bytes out, the same messages in."""

from __future__ import annotations

from typing import Any

import betterproto
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.messages import (
    Job,
    JobSpec,
    Limits,
    ListRequest,
    Output,
    StartRequest,
    StopRequest,
    StreamRequest,
    StreamResponse,
)
from api.protobuf import MalformedMessageError, UnfitValueError, decode, encode, new
from tests.support.messages import CLASSES, any_message

prop = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
ANY = st.sampled_from(CLASSES).flatmap(any_message)


@prop
@given(ANY)
def test_what_is_encoded_is_what_betterproto_encodes(message: betterproto.Message) -> None:
    """Byte for byte, whatever is set."""
    assert encode(message) == bytes(message)


@prop
@given(ANY)
def test_what_is_decoded_is_what_betterproto_parses(message: betterproto.Message) -> None:
    """Field for field, and the same one of each oneof."""
    data = bytes(message)
    ours, theirs = decode(type(message), data), type(message)().parse(data)
    assert ours == theirs
    assert encode(ours) == data
    assert bytes(ours) == data
    assert ours._group_current == theirs._group_current


@prop
@given(ANY.map(lambda message: (type(message), bytes(message))), st.data())
def test_damaged_bytes_are_refused_or_a_message(sound: tuple[Any, bytes], data: st.DataObject) -> None:
    """A hostile peer's bytes never raise anything else, and what comes of them can be used and encoded."""
    cls, wire = sound
    spoilt = bytearray(wire) or bytearray(b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(spoilt)))
    for damaged in (bytes(spoilt), bytes(spoilt[:cut]), data.draw(st.binary(max_size=50))):
        try:
            message = decode(cls, damaged)
        except MalformedMessageError:
            continue
        assert decode(cls, encode(message)) == message


@prop
@given(ANY.map(lambda message: (type(message), bytes(message))).filter(lambda sound: len(sound[1]) > 2))
def test_a_message_that_is_cut_is_refused(sound: tuple[Any, bytes]) -> None:
    """betterproto takes what there is of the last field for all of it."""
    cls, wire = sound
    known = [decode(cls, wire)]
    try:
        known.append(decode(cls, wire[:-1]))
    except MalformedMessageError:
        return
    assert known[0] != known[1], "what is not refused had been cut between two fields"


@prop
@given(ANY)
def test_unknown_fields_are_skipped(message: betterproto.Message) -> None:
    """Of every wire type; a later version may have them."""
    unknown = b"\xf8\x3f\x96\x01" + b"\xf9\x3f12345678" + b"\xfa\x3f\x02ab" + b"\xfd\x3f1234"
    assert decode(type(message), unknown + bytes(message) + unknown) == message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x0a\x05ab", id="a length beyond the end"),
        pytest.param(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab", id="an enormous length"),
        pytest.param(b"\x18" + b"\xff" * 11, id="a number of more than 64 bits"),
        pytest.param(b"\x18\xff", id="a number that is cut"),
        pytest.param(b"\x0a\x02\xc3\x28", id="text that is not UTF-8"),
        pytest.param(b"\x02\x01x", id="a field without a number"),
        pytest.param(b"\xb8\xbe\xff\xff\x10\x01", id="a field's number of more than 32 bits"),
        pytest.param(b"\xb8\x80\x80\x80\x80\x00\x01", id="a field's number in six bytes"),
        pytest.param(b"\x0b\x0c", id="a group"),
        pytest.param(b"\x72\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", id="a time beyond the calendar"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """With one kind of error."""
    with pytest.raises(MalformedMessageError):
        decode(Job, data)


def test_another_wire_type_than_the_field_s_is_unknown() -> None:
    """betterproto would put a number where a string belongs, for a handler to stumble over."""
    assert decode(JobSpec, b"\x08\x05\x0a\x01a") == JobSpec(argv=["a"])


def test_a_list_of_numbers_comes_packed_or_not() -> None:
    """A parser takes both forms, also mixed."""
    assert decode(ListRequest, b"\x1a\x02\x01\x02\x18\x03").states == [1, 2, 3]


def test_of_a_oneof_the_last_one_counts() -> None:
    """Also when the one before was of another field."""
    message = decode(StreamRequest, encode(StreamRequest(offset=5)) + encode(StreamRequest(tail_lines=2)))
    assert betterproto.which_one_of(message, "start") == ("tail_lines", 2)


def test_a_new_message_is_like_any_other() -> None:
    """It can be read, changed, and compared; what is not given is unset."""
    spec = new(JobSpec, argv=["a"])
    assert spec == JobSpec(argv=["a"])
    assert (spec.name, spec.env, spec.limits) == ("", {}, None)
    spec.name = "b"
    spec.env["C"] = "d"
    assert bytes(spec) == bytes(JobSpec(argv=["a"], name="b", env={"C": "d"})) == encode(spec)
    chosen = new(StreamResponse, output=Output(b"x"))
    assert betterproto.which_one_of(chosen, "event")[0] == "output"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        *((StopRequest(signal=number), "signal") for number in (2**31, 2**32 + 9, -(2**31) - 1)),
        *((StreamRequest(offset=number), "offset") for number in (2**63, 2**64 + 5000, -(2**63) - 1)),
        *((StartRequest(JobSpec(umask=number)), "spec.umask") for number in (2**32, -1)),
        (StartRequest(JobSpec(limits=Limits(processes=2**32 + 5))), "spec.limits.processes"),
        (StartRequest(JobSpec(limits=Limits(stop_at_output=2))), "spec.limits.stop_at_output"),  # type: ignore[arg-type] # the wrong
        (StopRequest(mode=2**32 + 1), "mode"),  # type: ignore[arg-type] # the wrong
        (ListRequest(states=[1, 2**32 + 1]), "states"),  # type: ignore[list-item] # the wrong
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_name(message: betterproto.Message, field: str) -> None:
    """Of each type of the contract, by its field in the outermost message; betterproto sends the lower bits of it."""
    with pytest.raises(UnfitValueError, match="and not between") as refused:
        encode(message)
    assert refused.value.field == field
