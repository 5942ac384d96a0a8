"""Between messages and domain types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import betterproto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import messages as m
from api.errors import InvalidArgumentError, RpcError
from api.protobuf import decode, encode
from jobd.service import translate as t
from jobd.service.errors import STATUSES, rpc_error
from jobd.worker import errors as e
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.ports import Record, Source
from jobd.worker.stdin import StdinMode, Terminal


@given(st.integers(0, 2**62), st.sampled_from(Source), st.integers(0, 2**62), st.binary(min_size=1, max_size=300))
def test_the_hand_made_output_message_is_the_library_s(offset: int, source: Source, time: int, data: bytes) -> None:
    """What is put on the wire for every piece of output parses to exactly what it stands for."""
    time //= 1000
    parsed = m.StreamResponse().parse(b"".join(t.output_message(Record(offset, source, time * 1000, data))))
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time) if time < 2**55 else None
    assert (parsed.output.offset, parsed.output.source, parsed.output.data) == (offset, source, data)
    if moment is not None:
        assert parsed.output.time == moment


@pytest.mark.parametrize(
    ("translate", "request_", "field"),
    [
        (lambda request: t.stop_of(request, "alice"), m.StopRequest(mode=7), "mode"),  # type: ignore[arg-type] # the wrong
        (t.waits_for_any, m.WaitRequest(mode=7), "mode"),  # type: ignore[arg-type] # the wrong
        (t.page_of, m.ListRequest(states=[m.JobState.RUNNING, 7_000]), "states"),  # type: ignore[list-item] # the wrong
        (t.source_of, m.StreamRequest(source=7), "source"),  # type: ignore[arg-type] # the wrong
        (lambda request: t.spec_of(request), m.StartRequest(m.JobSpec(stdin=7)), "spec.stdin"),  # type: ignore[arg-type] # the wrong
    ],
)
def test_a_value_that_is_none_of_an_enum_s_is_refused_by_name_and_value(
    translate: Callable[[betterproto.Message], object], request_: betterproto.Message, field: str
) -> None:
    """As it came over the wire; it is not taken for the default."""
    with pytest.raises(InvalidArgumentError, match=r"has the value 7(000)?, which is ") as refused:
        translate(decode(type(request_), encode(request_)))
    assert [violation.field for violation in refused.value.violations] == [field]


def test_every_mode_has_its_meaning() -> None:
    """Of a stop and of a wait."""
    assert set(t.STOP_MODES) == set(m.StopMode)
    assert set(t.WAIT_MODES) == set(m.WaitMode)
    assert t.waits_for_any(m.WaitRequest(mode=m.WaitMode(m.WaitMode.ANY)))


def test_every_state_has_its_number() -> None:
    """And terminal means the same on both sides."""
    assert set(t.TO_STATE) == set(State)
    assert {t.TO_STATE[state] for state in State if state.terminal} == m.TERMINAL_STATES


def test_a_job_message_keeps_what_is_not_known_apart_from_zero() -> None:
    """No exit code is not exit code 0."""
    job = Job("id", JobSpec(("x",)), State.RUNNING, 1)
    assert (t.job_message(job).exit_code, t.job_message(job).ended_at) == (None, None)
    ended = Job("id", JobSpec(("x",)), State.SUCCEEDED, 1, wait_status=0, ended_at=0)
    back = m.Job().parse(bytes(t.job_message(ended)))
    assert (back.exit_code, back.signal, back.ended_at) == (0, None, datetime(1970, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("spec", "stdin", "size"),
    [
        (JobSpec(("x",)), m.StdinMode.UNSPECIFIED, 0),
        (JobSpec(("x",), stdin=StdinMode.PIPE), m.StdinMode.PIPE, 0),
        (JobSpec(("x",), stdin_data=b"\0secret"), m.StdinMode.UNSPECIFIED, 7),
        (JobSpec(("x",), terminal=Terminal(24, 80, "vt100")), m.StdinMode.UNSPECIFIED, 0),
    ],
)
def test_what_is_said_of_stdin_can_be_asked_for_again(spec: JobSpec, stdin: int, size: int) -> None:
    """But for bytes that were given: of those, the number is shown."""
    shown = m.JobSpec().parse(bytes(t.job_message(Job("id", spec, State.RUNNING, 1)).spec))
    assert (shown.stdin, shown.stdin_data_bytes, shown.stdin_data) == (stdin, size, b"")
    assert t.spec_of(m.StartRequest(spec=shown)) == replace(spec, stdin_data=b"")


@given(st.integers(1, 2**63 - 1))
def test_page_tokens_come_back_as_they_went(seq: int) -> None:
    """They are opaque, and ours."""
    assert t.page_of(m.ListRequest(page_token=t.page_token(seq)))[0] == seq


@pytest.mark.parametrize(
    ("translate", "request_", "field"),
    [
        (t.page_of, m.ListRequest(page_token="nonsense"), "page_token"),
        (t.page_of, m.ListRequest(page_token="MTow"), "page_token"),
        (t.page_of, m.ListRequest(page_size=-1), "page_size"),
        (t.page_of, m.ListRequest(states=[99]), "states"),
        (t.grace_of, m.StopRequest(grace_period=timedelta(seconds=-1)), "grace_period"),
        (t.grace_of, m.StopRequest(grace_period=timedelta(days=2)), "grace_period"),
        (t.start_of, m.StreamRequest(offset=-1), "offset"),
        (t.start_of, m.AttachStart(tail_bytes=-1), "tail_bytes"),
        (t.spec_of, m.StartRequest(spec=m.JobSpec(stdin=3)), "spec.stdin"),
        (t.start_of, m.StreamRequest(tail_lines=-1), "tail_lines"),
        (t.source_of, m.StreamRequest(source=3), "source"),
        (t.signal_of, m.SignalRequest(signal=0), "signal"),
        (t.signal_of, m.SignalRequest(signal=65), "signal"),
        (t.request_id_of, m.StartRequest(request_id="x" * 129), "request_id"),
        (t.request_id_of, m.StartRequest(request_id="a\nb"), "request_id"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(translate, request_, field: str) -> None:  # type: ignore[no-untyped-def] # one row for each translator
    """INVALID_ARGUMENT, with the field in BadRequest."""
    with pytest.raises(InvalidArgumentError) as caught:
        translate(request_)
    assert [v.field for v in caught.value.violations] == [field]


def test_a_page_that_is_too_large_is_cut(  # AIP-158
) -> None:
    """0 is the default, too large the maximum."""
    assert t.page_of(m.ListRequest(page_size=10**6))[1] == t.MAX_PAGE
    assert t.page_of(m.ListRequest())[1] == t.DEFAULT_PAGE


def test_every_error_of_the_domain_has_its_status() -> None:
    """A new error without one fails here (a bug of ours has none on purpose)."""
    assert set(kinds_of(e.WorkerError)) - {e.LaunchError, e.InvalidTransitionError} == set(STATUSES)


def kinds_of(error: type[e.WorkerError]) -> Iterator[type[e.WorkerError]]:
    """All classes below it."""
    for kind in error.__subclasses__():
        yield kind
        yield from kinds_of(kind)


def test_what_is_inside_the_server_stays_there(errors_expected: list[object]) -> None:
    """The text of a store's error is for the log, not for the peer."""
    told: RpcError = rpc_error(e.StoreError("disk /dev/secret is full"))
    assert "secret" not in told.message
    assert "secret" not in str(told.metadata)
