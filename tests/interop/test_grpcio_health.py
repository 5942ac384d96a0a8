"""The health service is the one that gRPC's own client library means."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import trio

from api.methods import JOB_WORKER
from tests.support.patience import patient
from tests.support.pki import TestPki

PROBE = """
import sys
from pathlib import Path
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

server, certificate, key, ca, *services = sys.argv[1:]
credentials = grpc.ssl_channel_credentials(*(Path(p).read_bytes() for p in (ca, key, certificate)))
with grpc.secure_channel(server, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in services:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            print(health_pb2.HealthCheckResponse.ServingStatus.Name(stub.Check(request, timeout=20).status))
        except grpc.RpcError as error:
            print(error.code().name)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(next(stub.Watch(request, timeout=20)).status))
"""


async def test_a_grpcio_probe_understands_it(pki: TestPki, server: str) -> None:
    """Check and Watch, for a service that is there, and for one that is not."""
    me = pki.credentials("rita")
    arguments = [server, me["cert"], me["key"], me["ca"], JOB_WORKER, "no.such"]
    run = partial(subprocess.run, check=True, capture_output=True, text=True, timeout=patient(60))
    done = await trio.to_thread.run_sync(run, [sys.executable, "-c", PROBE, *map(str, arguments)])
    assert done.stdout.split() == ["SERVING", "SERVING", "NOT_FOUND", "SERVICE_UNKNOWN"]
