"""A client that knows several brokers of a pool changes over by itself."""

from __future__ import annotations

import pytest
import trio

from api import messages as m
from api import methods
from api.client import JobClient
from api.errors import NotFoundError, UnavailableError
from api.rpc.server import Handler, ServerCall, router, server_stream, stack, unary
from jobd.middleware.authentication import authenticate
from jobd.transport.listener import bind
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.serving import serving


class Broker:
    """Answers every Query with its name, or not at all for a while."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.down = False
        self.asked = 0

    async def query(self, call: ServerCall, request: m.QueryRequest) -> m.QueryResponse:
        self.asked += 1
        if self.down:
            raise UnavailableError("not now", reason="POOL_UNAVAILABLE")
        if request.job_id == "none":
            raise NotFoundError("there is none", reason="JOB_NOT_FOUND")
        return m.QueryResponse(m.Job(worker=self.name))

    async def stream(self, call: ServerCall, request: m.StreamRequest) -> None:
        self.asked += 1
        if request.offset == 0:
            await call.send(m.StreamResponse(output=m.Output(self.name.encode())))
        if self.down:
            raise UnavailableError("not now", reason="POOL_UNAVAILABLE")
        await call.send(m.StreamResponse(verdict=m.Verdict(end_offset=1, message=self.name)))

    def handler(self) -> Handler:
        handlers = {methods.QUERY.path: unary(self.query), methods.STREAM.path: server_stream(self.stream)}
        return stack([authenticate], router(handlers))


async def test_the_next_is_asked_when_one_is_gone_or_cannot_answer(pki: TestPki) -> None:
    """And stays the one that is asked, until it cannot answer either. What was asked in vain is asked again there."""
    a, b = Broker("a"), Broker("b")
    with bind("127.0.0.1", 0) as closed:
        nobody = closed.getsockname()[1]
    with trio.fail_after(patient(20)):
        async with serving(pki, a.handler()) as port_a, serving(pki, b.handler()) as port_b:
            servers = f"localhost:{nobody}, localhost:{port_a},localhost:{port_b}"
            async with JobClient.connect(servers, **pki.credentials("alice"), retry_for=patient(20)) as client:
                assert [(await client.query("1")).worker for _ in range(2)] == ["a", "a"]
                a.down = True
                assert [(await client.query("1")).worker for _ in range(2)] == ["b", "b"]
                assert (a.asked, b.asked) == (3, 2)
                a.down, b.down = False, True
                assert (await client.query("1")).worker == "a"  # by way of the one that is not there


async def test_a_stream_goes_on_at_the_next_one(pki: TestPki) -> None:
    """Where it was, when the one that gave it cannot go on."""
    a, b = Broker("a"), Broker("b")
    a.down = True
    with trio.fail_after(patient(20)):
        async with serving(pki, a.handler()) as port_a, serving(pki, b.handler()) as port_b:
            servers = f"localhost:{port_a},localhost:{port_b}"
            async with JobClient.connect(servers, **pki.credentials("alice"), retry_for=patient(20)) as client:
                async with client.stream("1") as output:
                    assert [chunk.data async for chunk in output] == [b"a"]
                assert output.verdict is not None
                assert output.verdict.message == "b"
                assert (a.asked, b.asked) == (1, 1)


async def test_an_answer_is_an_answer_whoever_gives_it(pki: TestPki) -> None:
    """What is wrong with the call is not asked of the next one."""
    a, b = Broker("a"), Broker("b")
    with trio.fail_after(patient(20)):
        async with serving(pki, a.handler()) as port_a, serving(pki, b.handler()) as port_b:
            servers = f"localhost:{port_a},localhost:{port_b}"
            async with JobClient.connect(servers, **pki.credentials("alice"), retry_for=patient(20)) as client:
                with pytest.raises(NotFoundError):
                    await client.query("none")
    assert (a.asked, b.asked) == (1, 0)


async def test_when_none_can_be_reached_that_is_said(pki: TestPki) -> None:
    """After one try each."""
    with bind("127.0.0.1", 0) as one, bind("127.0.0.1", 0) as other:
        ports = [each.getsockname()[1] for each in (one, other)]
    servers = ",".join(f"localhost:{port}" for port in ports)
    async with JobClient.connect(servers, **pki.credentials("alice"), retry_for=0) as client:
        with pytest.raises(UnavailableError, match=f"nobody answers at localhost:{ports[1]}"):
            await client.query("1")
