"""``grpc.reflection.v1.ServerReflection``, and the same as v1alpha."""

from __future__ import annotations

from typing import Final

import betterproto
import trio

from api import messages as m
from api import methods
from api.errors import Code, ResourceExhaustedError
from api.protobuf import new
from api.rpc.server import Handler, ServerCall
from jobd.service.descriptors import SERIALIZED, Descriptors
from jobd.service.refusal import refuse

MAX_REQUESTS: Final = 1000
"""In one call. A tool that looks at everything here asks some dozens."""
MAX_NAME: Final = 1024
"""Characters of what is asked for; it is said again in the answer."""
SERVICES: Final = sorted({method.service for method in methods.METHODS})


class ReflectionService:
    """The methods. What is answered is what was installed when the server started."""

    def __init__(self) -> None:
        self._serialized = SERIALIZED.read_bytes()
        self._known: Descriptors | None = None
        self._reading = trio.Lock()

    def handlers(self) -> dict[str, Handler]:
        """The handler for each path."""
        return {methods.REFLECT.path: self.info, methods.REFLECT_ALPHA.path: self.info}

    async def info(self, call: ServerCall) -> None:
        known = await self._descriptors()
        for _ in range(MAX_REQUESTS):
            request = await call.receive_next()
            if request is None:
                return
            assert isinstance(request, m.ServerReflectionRequest)
            await call.send(_answer(known, request))
        if await call.receive_next() is not None:
            raise ResourceExhaustedError(f"at most {MAX_REQUESTS} requests a call", reason="TOO_MANY_REQUESTS")

    async def _descriptors(self) -> Descriptors:
        async with self._reading:
            if self._known is None:  # a tenth of a second, once, and not of the other calls
                self._known = await trio.to_thread.run_sync(Descriptors, self._serialized)
            return self._known


def _answer(known: Descriptors, request: m.ServerReflectionRequest) -> m.ServerReflectionResponse:
    kind, value = betterproto.which_one_of(request, "message_request")
    extended = value.containing_type if isinstance(value, m.ExtensionRequest) else ""
    for field, text in (("host", request.host), (kind, value), (f"{kind}.containing_type", extended)):
        if isinstance(text, str) and len(text) > MAX_NAME:
            raise refuse(field, f"has more than {MAX_NAME} characters")
    response = new(m.ServerReflectionResponse, valid_host=request.host, original_request=request)
    match kind:
        case "list_services":
            services = [new(m.ServiceResponse, name=name) for name in SERVICES]
            response.list_services_response = new(m.ListServiceResponse, service=services)
        case "file_by_filename" if value in known.files:
            response.file_descriptor_response = _file(known, value)
        case "file_containing_symbol" if value in known.symbols:
            response.file_descriptor_response = _file(known, known.symbols[value])
        case "all_extension_numbers_of_type" if value in known.messages:
            response.all_extension_numbers_response = new(m.ExtensionNumberResponse, base_type_name=value)
        case "":
            response.error_response = _error(Code.INVALID_ARGUMENT, "the request asks for nothing")
        case _:
            response.error_response = _error(Code.NOT_FOUND, "there is nothing of that name here")
    return response


def _file(known: Descriptors, name: str) -> m.FileDescriptorResponse:
    return new(m.FileDescriptorResponse, file_descriptor_proto=known.closure(name))


def _error(code: Code, message: str) -> m.ErrorResponse:
    return new(m.ErrorResponse, error_code=code, error_message=message)
