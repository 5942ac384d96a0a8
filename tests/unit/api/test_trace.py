"""W3C Trace Context: what is one, what is none, and what is passed on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.trace import MAX_MEMBERS, MAX_STATE, TraceContext, metadata_of, parse, trace_in, trace_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_a_parent_is_passed_on_as_it_came() -> None:
    """Its flags too; the trace is told by its id."""
    assert parse(PARENT) == TraceContext(PARENT)
    assert parse(f"00-{TRACE}-{SPAN}-ff") == TraceContext(f"00-{TRACE}-{SPAN}-ff")
    assert TraceContext(PARENT).trace_id == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        "",
        TRACE,
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-",
        PARENT + "-00",
        PARENT + "\n",
        " " + PARENT,
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}_{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01.x",
        f"\u0660\u0660-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_no_parent_is_as_if_it_had_not_come(parent: str) -> None:
    """Lengths, characters, zeros, and the version that there is not."""
    assert parse(parent, "a=1") is None


def test_a_later_version_is_taken_for_what_is_known_of_it() -> None:
    """It may be longer; of its flags, the one that this version has is passed on."""
    known = TraceContext(f"00-{TRACE}-{SPAN}-01")
    assert parse(f"01-{TRACE}-{SPAN}-01") == known
    assert parse(f"cc-{TRACE}-{SPAN}-ff-what-comes-later") == known
    assert parse(f"cc-{TRACE}-{SPAN}-fe") == TraceContext(f"00-{TRACE}-{SPAN}-00")


@pytest.mark.parametrize(
    ("state", "passed_on"),
    [
        ("", ""),
        ("rojo=00f067aa0ba902b7", "rojo=00f067aa0ba902b7"),
        ("rojo=1,congo=t61rcWkgMzE", "rojo=1,congo=t61rcWkgMzE"),
        ("a=1 ,\t b=2", "a=1,b=2"),
        ("a=1,,b=2,", "a=1,b=2"),
        ("fw529a3039@dt=FfAA;x:1", "fw529a3039@dt=FfAA;x:1"),
        ("a_-*/0=!~ +<>x", "a_-*/0=!~ +<>x"),
        ("0a=x", "0a=x"),
        (",".join(f"k{n}=1" for n in range(MAX_MEMBERS)), ",".join(f"k{n}=1" for n in range(MAX_MEMBERS))),
    ],
)
def test_a_state_is_passed_on_in_its_order(state: str, passed_on: str) -> None:
    """But for the white space and the empty places between its members."""
    assert parse(PARENT, state) == TraceContext(PARENT, passed_on)


@pytest.mark.parametrize(
    "state",
    [
        "a",
        "a=",
        "=1",
        "A=1",
        "a=1,a=2",
        "a=b=c",
        "a b=1",
        "@v=1",
        "t@1v=1",
        "t@=1",
        "a=\x7f",
        "a=é",
        "a=1\x00",
        "k" * 257 + "=1",
        "t@" + "v" * 15 + "=1",
        "a=" + "1" * 257,
        "a=" + "1" * MAX_STATE,
        ",".join(f"k{n}=1" for n in range(MAX_MEMBERS + 1)),
    ],
)
def test_a_state_that_is_none_is_left_out_and_its_parent_is_not(state: str) -> None:
    """Whole: which of its members are good is not for us to say."""
    assert parse(PARENT, state) == TraceContext(PARENT)


def test_metadata_say_one_thing_or_nothing() -> None:
    """Two parents are none; states that came apart are one."""
    assert trace_of([("x", "y"), ("traceparent", PARENT)]) == TraceContext(PARENT)
    assert trace_of([("traceparent", PARENT), ("traceparent", PARENT)]) is None
    assert trace_of([("tracestate", "a=1"), ("traceparent", PARENT), ("tracestate", "b=2")]) == TraceContext(
        PARENT, "a=1,b=2"
    )
    assert trace_of([("tracestate", "a=1")]) is None
    assert trace_of([("traceparent", PARENT.encode())]) is None


def test_it_is_said_as_it_was_heard() -> None:
    """In metadata, and in the environment of a process."""
    for trace in (TraceContext(PARENT), TraceContext(PARENT, "a=1,b=2")):
        assert trace_of(metadata_of(trace)) == trace
    assert trace_in({"TRACEPARENT": PARENT, "TRACESTATE": "a=1"}) == TraceContext(PARENT, "a=1")
    assert trace_in({"TRACESTATE": "a=1"}) is None


@given(st.text(), st.text())
def test_nothing_that_comes_is_passed_on_as_it_is_unless_it_is_printable(parent: str, state: str) -> None:
    """Whatever a client sends, a job's environment and the log have what the standard allows."""
    for found in (parse(parent, state), parse(PARENT, state)):
        if found:
            assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", found.parent)
            assert found.state.isascii()
            assert not found.state or found.state.isprintable()
            assert len(found.state) <= MAX_STATE
