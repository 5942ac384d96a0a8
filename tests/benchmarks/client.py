"""One measurement in a process of its own: ``client PEER MEASUREMENT PLAN STUBS SERVER CERT KEY CA``; prints JSON.

``PEER`` may be ``grpc_aio_peer:bare``: the server has no jobs, and nothing but the measurement itself warms it up.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.measurements import MEASUREMENTS, QUICK, TRUE, Peer, Plan


def main() -> None:
    """Warm up (connection, imports, caches) with one job and a little of the same, measure, print."""
    peer_module, measurement, words, stubs, server, *files = sys.argv[1:]
    name, _, bare = peer_module.partition(":")
    plan = Plan(**json.loads(words))

    async def work(peer: Peer) -> dict[str, float]:
        await (peer.check() if bare else peer.run(TRUE))
        # A server that nobody asked for a minute may have to fetch its own code again, from the disk or a hypervisor.
        await MEASUREMENTS[measurement](peer, dataclasses.replace(QUICK, payload=plan.payload))
        return await MEASUREMENTS[measurement](peer, plan)

    module = importlib.import_module(f"tests.benchmarks.{name}")
    print(json.dumps(module.run(work, Path(stubs), server, *map(Path, files))))


if __name__ == "__main__":
    main()
