"""The commands ``jobd backup`` and ``jobd restore``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import trio

from api.errors import ConfigError, JobdError
from api.nearest import Parser
from jobd import logs
from jobd.backup.archive import sync
from jobd.backup.backup import back_up
from jobd.backup.restore import restore
from jobd.backup.tar import BackupError
from jobd.config import load_state

STDOUT: Final = 1
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def backup_parser() -> argparse.ArgumentParser:
    """The parser of ``jobd backup``; documentation is made from it."""
    made = _parser(
        "jobd backup",
        "Writes a backup of jobd's records and of the output of its jobs into a file, while jobd runs or does not. Run "
        "it as the user that the state directory belongs to. Values of secret_env are left out; the rest of what jobs "
        "were started with, and what they wrote, is in it as it is: keep it as private as the state directory.",
        "the file to make, which is not there yet; - is stdout",
    )
    made.add_argument(
        "--no-output",
        dest="output",
        action="store_false",
        help="leave out what jobs wrote; restored, it counts as dropped",
    )
    return made


def restore_parser() -> argparse.ArgumentParser:
    """The parser of ``jobd restore``; documentation is made from it."""
    return _parser(
        "jobd restore",
        "Makes a state directory of a backup, all of it or nothing. Run it as the user that it is to belong to, while "
        "no jobd uses it; the directory has to be empty, or not there yet. Jobs that had not ended when the backup was "
        "taken are lost (RESTORED), and none is started again.",
        "the backup; - is stdin",
    )


def _parser(prog: str, description: str, file: str) -> argparse.ArgumentParser:
    made = Parser(prog=prog, description=description, allow_abbrev=False)
    made.add_argument("--config", type=Path, metavar="FILE", help="the TOML file with the settings of that jobd")
    made.add_argument("--state", metavar="DIR", help="its state directory (or JOBD_STATE, or 'state' in the file)")
    made.add_argument("file", metavar="BACKUP", help=file)
    return made


def backup(argv: Sequence[str]) -> int:
    """Run ``jobd backup``; returns the exit code: 0 when it is done, 1 when it is not, 2 for bad usage."""
    return _run(backup_parser(), argv, _backup)


def restore_command(argv: Sequence[str]) -> int:
    """Run ``jobd restore``; returns the exit code, as :func:`backup`."""
    return _run(restore_parser(), argv, _restore)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str], command: Callable[[argparse.Namespace], None]) -> int:
    args = parser.parse_args(argv)
    logs.configure("warning")
    try:
        command(args)
    except JobdError as exc:
        print(f"{parser.prog}: {exc}", file=sys.stderr)
        return EXIT_USAGE if isinstance(exc, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _backup(args: argparse.Namespace) -> None:
    with _made(args.file) as stream:
        taken = back_up(_state(args), stream, now=time.time_ns(), with_output=args.output)
    live = f", {taken.live} of them not ended yet" if taken.live else ""
    print(f"jobd backup: {taken.jobs} jobs{live}, {taken.output} bytes of output", file=sys.stderr)


def _restore(args: argparse.Namespace) -> None:
    state = _state(args)
    with _opened(args.file) as stream:
        try:
            restored = trio.run(partial(restore, stream, state, now=time.time_ns()))
        except BackupError as exc:
            raise BackupError(f"{args.file}: {exc}; nothing was restored") from exc
    lost = f"; {restored.lost} jobs had not ended, and are lost" if restored.lost else ""
    print(f"jobd restore: {state} is as it was on {time.ctime(restored.made_at // 10**9)}{lost}", file=sys.stderr)


def _state(args: argparse.Namespace) -> Path:
    file = args.config or os.environ.get("JOBD_CONFIG")
    return load_state(args.state, os.environ, Path(file) if file else None)


@contextmanager
def _made(name: str) -> Iterator[BinaryIO]:
    """A new file, private and durable, which is gone again if something fails; or stdout."""
    if name == "-":
        try:
            fd = os.dup(STDOUT)
        except OSError as exc:
            raise ConfigError(f"stdout cannot be written: {exc.strerror}") from exc
        with _closed(fd) as stream:
            yield stream
        return
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"{name} cannot be made: {exc.strerror}") from exc
    try:
        with _closed(fd) as stream:
            yield stream
            stream.flush()
            os.fsync(fd)
        sync(Path(name).absolute().parent)
    except BaseException:  # whatever it was: half a backup is none
        with suppress(OSError):
            Path(name).unlink()
        raise


@contextmanager
def _closed(fd: int) -> Iterator[BinaryIO]:
    """A descriptor to write to; what cannot be written any more is told once."""
    file = os.fdopen(fd, "wb")
    try:
        yield file
        file.flush()
    except OSError as exc:
        raise BackupError(f"the backup cannot be written: {exc.strerror}") from exc
    finally:
        with suppress(OSError):
            file.close()


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        if sys.stdin is None:  # there is none, and Python made none
            raise ConfigError("stdin cannot be read: it is closed")
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(Path(name).open("rb"))
        except OSError as exc:
            raise ConfigError(f"{name} cannot be read: {exc.strerror}") from exc
        yield file
