"""The Python code that gRPC's own generator makes of our contract, and of the error details."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "api" / "proto"
DETAILS = Path(__file__).parent / "protos"


def generate(target: Path) -> Path:
    """Write ``jobworker/v1/job_worker_pb2(_grpc).py`` and ``rpc_details_pb2.py``; a directory for ``sys.path``."""
    target.mkdir(parents=True, exist_ok=True)
    roots = [f"-I{PROTO}", f"-I{DETAILS}"]
    out = [f"--python_out={target}", f"--grpc_python_out={target}"]
    files = ["jobworker/v1/job_worker.proto", "rpc_details.proto"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *roots, *out, *files], check=True, stdin=subprocess.DEVNULL
    )
    return target
