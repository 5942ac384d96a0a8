"""The command ``jobcli``, and ``python -m jobcli``: everything else is imported from here on."""

from __future__ import annotations

import gc
import signal
import sys

from api.lean import leave_out_what_is_not_called
from api.malloc import keep_what_is_freed


def main() -> int:
    """Run ``jobcli``; returns the exit code."""
    patient = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if patient:  # Ctrl-C during the imports is to be the end, and not a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # there is no garbage yet, and to look for it is a twelfth of the start
    leave_out_what_is_not_called()
    keep_what_is_freed()
    from jobcli import cli

    gc.freeze()
    gc.enable()
    if patient:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
