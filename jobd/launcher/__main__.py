"""The launcher's own program: ``python -m jobd.launcher FD``, which the front starts."""

from __future__ import annotations

import socket
import sys

from jobd.launcher.console import say
from jobd.launcher.launcher import Launcher

front = socket.socket(fileno=int(sys.argv[1])) if len(sys.argv) > 1 else None
sys.exit(Launcher(front, say).run())
