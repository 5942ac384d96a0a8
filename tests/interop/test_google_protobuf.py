"""``api.protobuf`` against google.protobuf, which reads and writes what other people's clients do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.messages import JobState, ListRequest, Usage
from api.protobuf import MalformedMessageError, decode, encode
from tests.interop.stubs import PROTO
from tests.support.messages import CLASSES, any_message

SPANS = st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))
OF_THE_CONTRACT = [cls for cls in CLASSES if ".jobworker." in cls.__module__]
ANY = st.sampled_from(OF_THE_CONTRACT).flatmap(lambda cls: any_message(cls, spans=SPANS))
thoroughly = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
Theirs = Callable[[type], Any]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """google.protobuf's class for one of ours."""
    out = tmp_path_factory.mktemp("descriptors") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "--include_imports", "jobworker/v1/job_worker.proto"], check=True)
    return _classes(out)


def _classes(descriptors: Path) -> Theirs:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file:
        pool.Add(file)
    return lambda cls: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"jobworker.v1.{cls.__name__}"))


@thoroughly
@given(ours=ANY)
def test_each_reads_what_the_other_writes(theirs: Theirs, ours: Any) -> None:
    """There and back, and nothing is lost: durations below zero included, which betterproto writes wrongly."""
    known = theirs(type(ours)).FromString(encode(ours))
    assert decode(type(ours), known.SerializeToString()) == ours


@thoroughly
@given(ours=ANY, data=st.data())
def test_what_google_refuses_is_refused(theirs: Theirs, ours: Any, data: st.DataObject) -> None:
    """Damaged bytes that google.protobuf does not take for a message are none here either."""
    spoilt = bytearray(encode(ours)) or bytearray(b"\0")
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        theirs(type(ours)).FromString(bytes(spoilt))
    except message.DecodeError:
        with pytest.raises(MalformedMessageError):
            decode(type(ours), bytes(spoilt))


def test_an_enum_below_zero_is_what_it_is(theirs: Theirs) -> None:
    """Ten bytes on the wire; betterproto reads it as a huge number."""
    ours = ListRequest(states=[JobState.try_value(-3)])
    assert theirs(ListRequest).FromString(encode(ours)).states == [-3]
    assert [int(state) for state in decode(ListRequest, encode(ours)).states] == [-3]


@pytest.mark.parametrize("microseconds", [-1, -999_999, -1_000_000, -1_500_000, 0, 1, 1_500_000])
def test_a_duration_has_one_sign(theirs: Theirs, microseconds: int) -> None:
    """Seconds and nanos both below zero, or neither."""
    span = theirs(Usage).FromString(encode(Usage(cpu_time=timedelta(microseconds=microseconds)))).cpu_time
    assert span.ToMicroseconds() == microseconds
    assert span.seconds * span.nanos >= 0
