"""purerpc as it is, with its own server and TLS by mutual certificates: one method, which does nothing.

``python -m tests.benchmarks.references.purerpc_server STUBS CERT KEY CA``
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from purerpc import Server, Service
from purerpc.rpc import Cardinality, RPCSignature

from api.tls import server_context

SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING)


async def check(request: HealthCheckRequest) -> HealthCheckResponse:
    """The health check's answer."""
    return SERVING


def main() -> None:
    """Serve until SIGTERM."""
    _, _, certificate, key, ca = sys.argv
    service = Service("grpc.health.v1.Health")
    service.add_method("Check", check, RPCSignature(Cardinality.UNARY_UNARY, HealthCheckRequest, HealthCheckResponse))
    with socket.socket() as probe:  # purerpc does not tell which port it got
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = server_context(certificate=Path(certificate), key=Path(key), ca=Path(ca))
    server = Server(port=port, ssl_context=context)
    server.add_service(service)
    print(f"purerpc is listening on 127.0.0.1:{port}", flush=True)
    server.serve(backend="trio")


if __name__ == "__main__":
    main()
