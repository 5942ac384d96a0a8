"""``jobd upgrade``: replace launcher and server by what is installed now, and touch no job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from api.errors import ConfigError, JobdError
from api.nearest import Parser
from jobd.config import load_state
from jobd.launcher import control, protocol

PATIENCE: Final = 300.0
"""Seconds for open calls to end, for the new launcher, and for a server that is ready."""


class UpgradeError(JobdError):
    """There was no upgrade."""


def parser() -> argparse.ArgumentParser:
    """The parser; documentation is made from it."""
    made = Parser(
        prog="jobd upgrade",
        description="Replaces the launcher and the server of a running jobd by the code that is installed now. Jobs go "
        "on untouched, and clients take up their calls and streams by themselves. Waits until the new server "
        "is ready; when the new code does not start, everything stays as it was. SIGHUP to jobd does the same, "
        "unwatched.",
        allow_abbrev=False,
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="the TOML file with the settings of that jobd")
    made.add_argument("--state", metavar="DIR", help="its state directory (or JOBD_STATE, or 'state' in the file)")
    return made


def main(argv: Sequence[str]) -> int:
    """Run ``jobd upgrade``; returns the exit code: 0 when it is done, 1 when it is not, 2 for bad usage."""
    args = parser().parse_args(argv)
    file = args.config or os.environ.get("JOBD_CONFIG")
    try:
        upgrade(load_state(args.state, os.environ, Path(file) if file else None))
    except JobdError as exc:
        print(f"jobd upgrade: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ConfigError) else 1
    return 0


def upgrade(state: Path) -> None:
    """Upgrade the jobd that has this state directory.

    Raises:
        ConfigError: no jobd has it.
        UpgradeError: it did not come to an upgrade.
    """
    try:
        sock = control.connect(state)
    except PermissionError as exc:
        raise ConfigError(
            f"{state}: {exc.strerror}; run this as root, or as the user that jobd was started as"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"no jobd has the state directory {state}: {exc.strerror}") from exc
    with sock:
        sock.settimeout(PATIENCE)
        launcher = protocol.peer_of(sock)
        try:
            protocol.send(sock, {"op": "upgrade"})
            heard = protocol.receive(sock)
        except TimeoutError as exc:
            raise UpgradeError(f"not done within {PATIENCE:g} s; see jobd's log") from exc
        except OSError:
            heard = None
    if heard is None:
        if os.geteuid() not in (0, launcher):
            raise UpgradeError("you may not: the launcher hears only root and the user that jobd was started as")
        raise UpgradeError("the launcher ended meanwhile; see jobd's log")
    if heard[0].get("op") != "upgraded":
        # In a server's state directory who answers can be one that was taken over: it is not to write to a terminal.
        raise UpgradeError("".join(each if each.isprintable() else "?" for each in str(heard[0].get("why"))))
