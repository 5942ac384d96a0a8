"""The command line of ``jobcli``: parse, connect, run the verb; every failure of ours is one sentence and 125."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any, Final, NoReturn

import trio

from api import nearest
from api.client import JobClient
from api.errors import ConfigError, JobdError
from api.trace import trace_in
from api.version import VERSION
from jobcli import exit_codes, profile, render
from jobcli.commands._command import seconds

VERBS: Final = (
    *("start", "run", "stream", "attach", "query", "list", "wait", "stop", "signal", "delete"),
    *("workers", "drain", "undrain", "forget"),
)


def _command(verb: str) -> ModuleType:
    """What a verb is and does: imported when it is asked for, as a cold command is little else than its modules."""
    return importlib.import_module(f"jobcli.commands.{verb}")


class Parser(nearest.Parser):
    """argparse, with our exit code for bad usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.hinted(message)}; see '{self.prog} --help'")


def parser(verbs: Collection[str] = VERBS) -> argparse.ArgumentParser:
    """The parser; documentation is made from it.

    Args:
        verbs: those that it knows.
    """
    connection = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = connection.add_argument_group("connection")
    group.add_argument("--server", metavar="HOST:PORT[,…]", help="where jobd is (or JOBCLI_SERVER)")
    group.add_argument("--cert", metavar="FILE", help="your certificate (or JOBCLI_CERT)")
    group.add_argument("--key", metavar="FILE", help="your private key (or JOBCLI_KEY)")
    group.add_argument(
        "--key-passphrase-file",
        metavar="FILE",
        help="the first line of FILE opens your private key, if that is encrypted (or JOBCLI_KEY_PASSPHRASE_FILE)",
    )
    group.add_argument("--ca", metavar="FILE", help="the CA's certificate (or JOBCLI_CA)")
    group.add_argument("--profile", metavar="FILE", help="a TOML file with server, cert, key, ca, key-passphrase-file")
    group.add_argument(
        "--retry-for", type=seconds, metavar="SECONDS", help="how long to try to reach the server again (default: 30)"
    )
    made = Parser(
        prog="jobcli",
        description="Starts, follows, queries and stops processes on a jobd.",
        parents=[connection],
        epilog="Exit codes: 125 for a failure of jobcli or jobd, 126 and 127 for a command that cannot be executed or "
        "is not there, 128+n for a job ended by signal n, 130 for Ctrl-C, 141 when nobody reads the output; otherwise "
        "the job's own code (run, wait) or 0. A flag wins over the environment, that over the profile: the file "
        "given with --profile, else jobcli/profile.toml, then jobcli/dev.toml (left by 'jobd dev'), below "
        "$XDG_CONFIG_HOME or ~/.config.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"jobcli {VERSION}")
    parsers = made.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name in VERBS:
        if name not in verbs:
            continue
        module = _command(name)
        text = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        module.configure(
            parsers.add_parser(name, help=module.HELP, description=text, parents=[connection], allow_abbrev=False)
        )
    return made


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; what follows the first ``--`` is the command to run, untouched.

    Raises:
        ConfigError: they cannot be used.
    """
    ours, command = list(argv), None
    if "--" in ours:
        cut = ours.index("--")
        ours, command = ours[:cut], ours[cut + 1 :]
    args = _parse(ours)
    if command is not None:
        if not hasattr(args, "command"):
            raise ConfigError(f"{args.verb} takes no command after --")
        # Words before the -- belong to the command already (as in: run sh -c 'exec "$@"' -- x).
        args.command = [*args.command, "--", *command] if args.command else command
    return args


def _parse(ours: list[str]) -> argparse.Namespace:
    """By a parser that knows the verbs that are there, if it can be done: to make it for all takes a while."""
    verbs = {*VERBS} & set(ours)
    if verbs and (ours[0] in verbs or not {"-h", "--help"} & set(ours)):
        with contextlib.suppress(ConfigError):  # what is wrong, and what would be right, is said by one that knows all
            return parser(verbs).parse_args(ours)
    return parser().parse_args(ours)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``jobcli``; returns the exit code."""
    _have_standard_descriptors()
    try:
        code = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads our output any more; python would complain about it again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.BROKEN_PIPE
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        render.error(f"the output cannot be written: {exc.strerror}")
        return exit_codes.OUR_FAILURE
    return code


def _have_standard_descriptors() -> None:
    """A closed one would be taken by the next file that is opened, and written to."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has none for a descriptor that was closed when it started.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _main(argv: Sequence[str] | None) -> int:
    told: Callable[[JobdError], str] = str
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        chosen = profile.load(vars(args), os.environ)
        told = chosen.told
        return trio.run(_run, args, chosen)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except JobdError as exc:
        render.error(told(exc))
        return exit_codes.OUR_FAILURE
    except BaseExceptionGroup as group:  # KeyboardInterrupt comes in one too
        return _many(group, told)


def _many(group: BaseExceptionGroup[BaseException], told: Callable[[JobdError], str]) -> int:
    """The errors of tasks that ran side by side."""
    if group.subgroup(KeyboardInterrupt):
        return exit_codes.INTERRUPTED
    for expected in (OSError, JobdError):
        errors = group.subgroup(expected)
        if errors is not None:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, OSError):
                raise error
            render.error(told(error) if isinstance(error, JobdError) else str(error))
            return exit_codes.OUR_FAILURE
    raise group


async def _run(args: argparse.Namespace, chosen: profile.Profile) -> int:
    retry = {"retry_for": args.retry_for} if hasattr(args, "retry_for") else {}
    who: dict[str, Any] = {"cert": chosen.cert, "key": chosen.key, "key_passphrase_file": chosen.key_passphrase_file}
    async with JobClient.connect(chosen.server, **who, ca=chosen.ca, **retry, trace=trace_in(os.environ)) as client:
        code: int = await _command(args.verb).run(args, client)
        return code
