"""The server's program in a pool whose sessions are shorter, so that tests need not wait for long until one ends.

``python -m tests.support.pooled_server``, with ``jobd.server``'s arguments; how many seconds is in the environment.
"""

from __future__ import annotations

import os
import runpy

from jobd.pools.etcd import session

VARIABLE = "JOBD_TEST_SESSION_SECONDS"

if __name__ == "__main__":
    session.TTL = int(os.environ[VARIABLE])  # type: ignore[misc] # not final here
    session.KEEPALIVE = session.TTL / 4  # type: ignore[misc] # as above
    runpy.run_module("jobd.server", run_name="__main__", alter_sys=True)
