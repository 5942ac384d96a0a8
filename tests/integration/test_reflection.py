"""Reflection: what a server says of its own contract, and what it does not put up with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from api.address import parse_address
from api.errors import InvalidArgumentError, ResourceExhaustedError
from api.messages import ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse
from api.methods import METHODS, REFLECT, REFLECT_ALPHA
from api.rpc.channel import Conversation, open_channel
from jobd.service.descriptors import SERIALIZED, Descriptors
from jobd.service.reflection import MAX_NAME, MAX_REQUESTS
from tests.support.patience import patient
from tests.support.pki import TestPki

Ask = ServerReflectionRequest
Talk = Conversation[ServerReflectionRequest, ServerReflectionResponse]
CONTRACT = "jobworker/v1/job_worker.proto"
NOT_FOUND, INVALID_ARGUMENT = 5, 3


@pytest.fixture(params=[REFLECT, REFLECT_ALPHA], ids=lambda method: method.service)
async def talk(pki: TestPki, server: str, request: pytest.FixtureRequest) -> AsyncIterator[Talk]:
    """A reader's call of either version."""
    with trio.fail_after(patient(30)):
        async with (
            open_channel(*parse_address(server), pki.context("rita")) as channel,
            channel.converse(request.param) as talk,
        ):
            yield talk


async def answer(talk: Talk, request: ServerReflectionRequest) -> ServerReflectionResponse:
    await talk.send(request)
    response = await talk.receive()
    assert response is not None
    assert response.original_request == request
    return response


async def files(talk: Talk, request: ServerReflectionRequest) -> list[bytes]:
    response = await answer(talk, request)
    assert response.file_descriptor_response is not None, response
    return response.file_descriptor_response.file_descriptor_proto


async def error(talk: Talk, request: ServerReflectionRequest) -> int:
    response = await answer(talk, request)
    assert response.error_response is not None, response
    assert response.error_response.error_message
    return response.error_response.error_code


async def test_it_lists_every_service(talk: Talk) -> None:
    """Of the table of methods, each once and in order; the host is said again."""
    response = await answer(talk, Ask(host="h", list_services="*"))
    assert response.valid_host == "h"
    assert response.list_services_response is not None
    named = [service.name for service in response.list_services_response.service]
    assert named == sorted({method.service for method in METHODS})


async def test_it_gives_a_file_with_all_that_it_imports(talk: Talk) -> None:
    """By its name, and by whatever has a name in it: the same bytes, which are those that are checked in."""
    known = Descriptors(SERIALIZED.read_bytes())
    whole = await files(talk, Ask(file_by_filename=CONTRACT))
    assert whole == known.closure(CONTRACT)
    assert whole[0] == known.files[CONTRACT]
    assert set(whole[1:]) == {known.files[f"google/protobuf/{name}.proto"] for name in ("timestamp", "duration")}
    for name in ("JobWorkerService", "JobWorkerService.Start", "JobSpec", "JobSpec.argv", "JobSpec.EnvEntry",
                 "JobState", "JOB_STATE_RUNNING", "StreamResponse.event"):  # fmt: skip
        assert await files(talk, Ask(file_containing_symbol=f"jobworker.v1.{name}")) == whole, name


async def test_every_method_can_be_found(talk: Talk) -> None:
    """Tools ask for the service of each."""
    for method in METHODS:
        assert await files(talk, Ask(file_containing_symbol=f"{method.service}.{method.name}"))


async def test_what_is_not_there_is_not_found_and_the_call_goes_on(talk: Talk) -> None:
    """Files, symbols and extensions, and one that asks for nothing."""
    assert await error(talk, Ask(file_by_filename="../../etc/passwd")) == NOT_FOUND
    assert await error(talk, Ask(file_containing_symbol="jobworker.v1")) == NOT_FOUND
    assert await error(talk, Ask(file_containing_symbol="")) == NOT_FOUND
    extension = ExtensionRequest(containing_type="jobworker.v1.Job", extension_number=100)
    assert await error(talk, Ask(file_containing_extension=extension)) == NOT_FOUND
    assert await error(talk, Ask(all_extension_numbers_of_type="jobworker.v1.JobState")) == NOT_FOUND
    assert await error(talk, Ask()) == INVALID_ARGUMENT
    response = await answer(talk, Ask(all_extension_numbers_of_type="jobworker.v1.Job"))
    assert response.all_extension_numbers_response is not None
    assert response.all_extension_numbers_response.extension_number == []
    talk.end()
    assert await talk.receive() is None


@pytest.mark.parametrize(
    "request_",
    [
        Ask(host="x" * (MAX_NAME + 1), list_services=""),
        Ask(file_by_filename="x" * (MAX_NAME + 1)),
        Ask(file_containing_extension=ExtensionRequest(containing_type="x" * (MAX_NAME + 1))),
    ],
    ids=["host", "name", "extension"],
)
async def test_a_name_that_is_too_long_ends_the_call(talk: Talk, request_: ServerReflectionRequest) -> None:
    """It would be said again in the answer."""
    await talk.send(request_)
    with pytest.raises(InvalidArgumentError, match="has more than 1024 characters") as caught:
        await talk.receive()
    assert caught.value.violations


async def test_a_call_has_so_many_requests_and_no_more(talk: Talk) -> None:
    """One that goes on and on is no tool's."""
    for _ in range(MAX_REQUESTS):
        await error(talk, Ask(file_by_filename="x"))
    await talk.send(Ask())
    with pytest.raises(ResourceExhaustedError, match="at most 1000 requests"):
        await talk.receive()
