"""The server's own program: ``python -m jobd.server``, which the launcher starts, and starts again.

It takes the command line of ``jobd``: parse, make a Config, run the daemon.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    from api.lean import leave_out_what_is_not_called
    from api.malloc import keep_what_is_freed
    from jobd.launcher.tracing import refuse_tracing

    refuse_tracing()  # before there is anything to see
    leave_out_what_is_not_called()
    keep_what_is_freed()
    gc.disable()  # until all is imported: there is no garbage yet, and to look for it is a twelfth of the start

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from api.errors import ConfigError, JobdError
from api.nearest import Parser
from api.version import VERSION
from jobd import logs
from jobd.config import FIELDS, Config, Flags, key_of, load
from jobd.daemon import Daemon, run
from jobd.launcher.control import ServedElsewhereError
from jobd.launcher.protocol import RESTART_ENVIRONMENT, SOCKET_ENVIRONMENT
from jobd.origin import with_origin
from jobd.unprivileged import forgo_early

EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The parser; documentation is made from it."""
    made = Parser(
        prog="jobd",
        description="Runs Linux processes for remote people and programs, over gRPC with mutual TLS.",
        epilog="Every setting may also stand in the file given with --config (TOML, the same names without the "
        "dashes in front) or in the environment (JOBD_CERT, JOBD_MAX_PENDING, …). A flag wins over the environment, "
        "the environment over the file. 'jobd dev' starts a throw-away daemon with certificates of its own; "
        "'jobd upgrade' replaces the code of a running one.",
        allow_abbrev=False,
    )
    made.commands = ("audit", "backup", "check", "dev", "restore", "upgrade")
    made.add_argument("--version", action="version", version=f"jobd {VERSION}")
    return add_settings(made)


def add_settings(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the settings to a parser, which is given back."""
    made.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with settings")
    for name, field in FIELDS.items():
        flag, help = f"--{key_of(name)}", field.metadata["help"]
        if isinstance(field.default, bool):
            made.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help)
            continue
        default = (
            ""
            if not isinstance(field.default, (int, float, str)) or field.default == ""
            else f" (default: {field.default})"
        )
        made.add_argument(flag, metavar=field.metadata["metavar"], help=help + default)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code: 0 after an orderly end, 2 for settings that cannot be used."""
    launcher_fd = os.environ.pop(SOCKET_ENVIRONMENT, None)
    restarted = os.environ.pop(RESTART_ENVIRONMENT, None) is not None
    said = _said(argv)
    try:
        config = load(said.flags, os.environ, said.file)
        logs.configure(config.log_level)
        forgo_early(config)
        ready = (lambda _: None) if restarted else _say_ready
        return exit_code(run_until_signalled, config, ready, int(launcher_fd) if launcher_fd else None)
    except ServedElsewhereError:
        return 0
    except JobdError as exc:
        print(f"jobd: {said.where(exc)}", file=sys.stderr)
        return EXIT_USAGE


class _Said(NamedTuple):
    """The command line, and the file that it or the environment names."""

    flags: Flags
    file: Path | None

    def where(self, exc: JobdError) -> str:
        """What is wrong, and where that was said."""
        return with_origin(str(exc), self.flags, os.environ, self.file)


def _said(argv: Sequence[str] | None) -> _Said:
    flags = vars(parser().parse_args(argv))
    file = flags.pop("config") or os.environ.get("JOBD_CONFIG")
    return _Said(flags, Path(file) if file else None)


def try_out(argv: Sequence[str]) -> None:
    """For a launcher that is to leave a server for one of this code: exit as that would, when settings, or what they
    name, cannot be used. Nothing is started."""
    from jobd import trial  # no server needs it, nor what it takes

    logs.configure("error")
    said = _said(argv)
    try:
        trial.try_out(load(said.flags, os.environ, said.file))
    except JobdError as exc:
        print(f"jobd: {said.where(exc)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def exit_code(
    function: Callable[[Config, Callable[[Daemon], None], int | None], Awaitable[None]],
    config: Config,
    ready: Callable[[Daemon], None],
    launcher_fd: int | None = None,
) -> int:
    """Run the daemon to its end.

    Raises:
        JobdError: it could not be started.
    """
    try:
        trio.run(function, config, ready, launcher_fd)
    except BaseExceptionGroup as group:  # what nobody expected is raised on as it is
        raise _expected(group) from group
    return 0


def _expected(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that a person is to see, or the group when it is something that nobody expected."""
    expected, other = group.split(JobdError)
    if expected is None or other is not None:
        return group
    error: BaseException = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _say_ready(daemon: Daemon) -> None:
    try:
        print(f"jobd is listening on {daemon.address}", flush=True)
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python would try again at its end
        raise ConfigError(f"stdout cannot be written: {exc.strerror}") from exc


async def run_until_signalled(config: Config, ready: Callable[[Daemon], None], launcher_fd: int | None = None) -> None:
    """Run the daemon, tell when it listens, and end it in order at the first signal, at once at the second."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        # What holds again when the receiver is closed: a late signal must not spoil an orderly end.
        signal.signal(signum, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def daemon_task(*, task_status: trio.TaskStatus[Daemon]) -> None:
                await run(config, launcher_fd=launcher_fd, task_status=task_status)
                nursery.cancel_scope.cancel()

            daemon: Daemon = await nursery.start(daemon_task)
            with daemon.telling():
                ready(daemon)
            await anext(signals)
            daemon.stop()
            await anext(signals)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    gc.freeze()  # modules stay: no later look for garbage need go through them
    gc.enable()
    sys.exit(main())
