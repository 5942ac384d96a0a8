"""One measurement in a process of its own: ``client PEER MEASUREMENT PLAN STUBS SERVER CERT KEY CA``; prints JSON.

``PEER`` may be ``grpc_aio_peer:bare``: the server has no jobs, and nothing but the measurement itself warms it up.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.measurements import MEASUREMENTS, TRUE, Peer, Plan


def main() -> None:
    """Warm up (connection, imports, caches) with one job, measure, print."""
    peer_module, measurement, plan, stubs, server, *files = sys.argv[1:]
    name, _, bare = peer_module.partition(":")

    async def work(peer: Peer) -> dict[str, float]:
        await (peer.check() if bare else peer.run(TRUE))
        return await MEASUREMENTS[measurement](peer, Plan(**json.loads(plan)))

    module = importlib.import_module(f"tests.benchmarks.{name}")
    print(json.dumps(module.run(work, Path(stubs), server, *map(Path, files))))


if __name__ == "__main__":
    main()
