"""Writes ``api/_generated`` from the .proto files: ``nox -s proto`` runs this and fails when the result differs.

Three things differ from calling protoc with betterproto's plugin:

- services are left out, because betterproto's service classes import grpclib and asyncio; ``api/methods.py`` is
  the table of methods here;
- everything is made under one parent package, because betterproto refers from one proto package to another by
  a relative import;
- their base class, and what makes dataclasses of them, are our own (``api/protobuf/message.py``).

Beside them it writes ``descriptors.binpb``, a google.protobuf.FileDescriptorSet of the same files with all that they
import: what the reflection service tells.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import google.rpc
from betterproto.lib.google.protobuf import FileDescriptorSet
from betterproto.lib.google.protobuf.compiler import CodeGeneratorRequest
from betterproto.plugin.models import monkey_patch_oneof_index
from betterproto.plugin.parser import generate_code
from grpc_tools import protoc

HERE = Path(__file__).parent
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
COMMON = Path(next(iter(google.rpc.__path__))).parents[1]
FILES = [
    "jobworker/v1/job_worker.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
]
TOLD = [*FILES, "grpc/reflection/v1alpha/reflection.proto"]
"""The last is served with the messages of v1, which are the same."""
DESCRIPTORS = "descriptors.binpb"
STANDARD = "from dataclasses import dataclass\n"
OWN = "from api.protobuf.message import Message, dataclass\n"


def descriptors(files: list[str], *flags: str) -> bytes:
    """A serialized FileDescriptorSet of the files and all that they import."""
    with tempfile.NamedTemporaryFile(suffix=".pb") as out:
        code = protoc.main(
            [
                "protoc",
                *(f"-I{path}" for path in (HERE, COMMON, WELL_KNOWN)),
                f"--descriptor_set_out={out.name}",
                "--include_imports",
                *flags,
                *files,
            ]
        )
        if code:
            raise SystemExit(code)
        return Path(out.name).read_bytes()


def generate(target: Path) -> None:
    files = FileDescriptorSet().parse(descriptors(FILES, "--include_source_info")).file
    for file in files:
        file.service = []
    request = CodeGeneratorRequest(file_to_generate=FILES, proto_file=files)
    for generated in generate_code(request).file:
        path = target / generated.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generated.content.replace(STANDARD, OWN).replace("(betterproto.Message)", "(Message)"))
        print(path)
    (target / DESCRIPTORS).write_bytes(descriptors(TOLD))
    print(target / DESCRIPTORS)


if __name__ == "__main__":
    patch: Callable[[], None] = monkey_patch_oneof_index
    patch()
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "_generated")
