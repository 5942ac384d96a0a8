"""The launcher's own program: ``python -m jobd.launcher FD``, which the front starts."""

from __future__ import annotations

import socket
import sys

from jobd.launcher.tracing import refuse_tracing

refuse_tracing()

from jobd.launcher.console import say  # noqa: E402 # first of all, nobody is to look
from jobd.launcher.launcher import Launcher  # noqa: E402 # the same

front = socket.socket(fileno=int(sys.argv[1])) if len(sys.argv) > 1 else None
sys.exit(Launcher(front, say).run())
