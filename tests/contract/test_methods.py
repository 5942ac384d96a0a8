"""The table of methods is the service of the .proto file, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from api.identity import Role
from api.methods import JOB_WORKER, METHODS, Cardinality

PROTO = Path(__file__).parents[2] / "api" / "proto"
PROTOS = sorted(PROTO.rglob("*.proto"))
RPC = re.compile(r"^  rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);", re.MULTILINE)
KINDS = {(False, False): "unary", (False, True): "server stream", (True, True): "bidirectional stream"}


SERVICE = re.compile(r"^package ([\w.]+);.*^service (\w+) ", re.MULTILINE | re.DOTALL)


def declared() -> set[tuple[str, str, str, str, str]]:
    """Path, request, whether there are many, answer, whether there are many."""
    found = set()
    for text in (proto.read_text() for proto in PROTOS):
        (service,) = SERVICE.findall(text)
        found |= {("/{}.{}/".format(*service) + name, *rest) for name, *rest in RPC.findall(text)}
    return found


def test_every_rpc_is_in_the_table_with_its_messages() -> None:
    """Names, messages and cardinality."""
    in_proto = {
        (path, request, response, KINDS[bool(streams_in), bool(streams_out)])
        for path, streams_in, request, streams_out, response in declared()
    }
    in_table = {(m.path, m.request.__name__, m.response.__name__, m.cardinality.value) for m in METHODS}
    assert in_table == in_proto


def test_request_and_response_are_the_rpc_s_own() -> None:
    """Each can grow without touching another (buf STANDARD). The other services are as others have made them."""
    for method in METHODS:
        if method.service != JOB_WORKER:
            continue
        assert (method.request.__name__, method.response.__name__) == (
            f"{method.name}Request",
            f"{method.name}Response",
        )


def test_what_changes_something_takes_a_writer() -> None:
    """And what only looks, a reader. A new method is put on one side or the other here, on purpose."""
    writer = {method.name for method in METHODS if method.role is Role.WRITER}
    reader = {method.name for method in METHODS if method.role is Role.READER}
    assert writer == {"Start", "Stop", "Signal", "Attach", "Delete", "Drain", "Undrain", "Forget"}
    assert reader == {"Query", "Stream", "List", "Wait", "ListWorkers", "Check", "Watch", "ServerReflectionInfo"}


def test_which_methods_stream() -> None:
    """All others have one request and one answer."""
    assert [m.name for m in METHODS if m.cardinality is Cardinality.UNARY_STREAM] == ["Stream", "Watch"]
    both = {m.name for m in METHODS if m.cardinality is Cardinality.STREAM_STREAM}
    assert both == {"Attach", "ServerReflectionInfo"}
