"""What the verbs share: the shape of a command, and the words after ``--``."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from api.client import JobClient
from api.errors import ConfigError
from api.messages import IoClass, Isolation, Limits
from jobcli import secret

Parser = argparse.ArgumentParser
Subparsers = Any  # argparse has no public name for what add_subparsers() gives
Run = Callable[[argparse.Namespace, JobClient], Awaitable[int]]

IO_CLASSES: Final = {"idle": IoClass(IoClass.IDLE), "best-effort": IoClass(IoClass.BEST_EFFORT)}
LONGEST: Final = 366 * 86400
"""Seconds that can be asked for anywhere: a year."""
NO_IO_CLASS: Final = IoClass(IoClass.UNSPECIFIED)
ISOLATION: Final = {
    "private-tmp": "a /tmp of its own, in memory",
    "read-only-root": "it can write no files but in a private /tmp",
    "no-network": "no network but a loopback of its own",
    "pid-namespace": "it sees no processes but its own",
    "drop-capabilities": "it has no capabilities, nor can it get any",
    "allow-new-privileges": "sudo and the like work in it, if the server allows that",
}
"""The flags that say what keeps a job from the machine, with what they mean."""


def add_job_arguments(parser: Parser) -> None:
    """The arguments that say what to run."""
    parser.add_argument("--name", default="", metavar="N", help="a name for people; need not be unique")
    parser.add_argument(
        "--env", action="append", default=[], metavar="K=V", help="an environment variable; may be given again"
    )
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="K=@FILE",
        help="a variable that nobody is shown, from a file (or K=fd:N, from a descriptor); may be given again",
    )
    parser.add_argument("--cwd", default="", metavar="D", help="the working directory, absolute (default: /)")
    parser.add_argument(
        "--user", default="", metavar="U", help="the user that it runs as (default: as the server is set)"
    )
    parser.add_argument("--group", default="", metavar="G", help="its group (default: the user's own)")
    parser.add_argument("--umask", type=mask, metavar="OCTAL", help="its file mode creation mask (default: 022)")
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="K=V",
        help="in a pool: a label that the worker has to have; may be given again",
    )
    parser.add_argument(
        "--retry-lost",
        type=COUNT,
        default=0,
        metavar="N",
        help="in a pool: run it again when it is lost, at most N times; it can then run twice at the same time; "
        "not with -i, nor with a terminal",
    )
    parser.add_argument("--stdin", type=Path, metavar="FILE", help="what it reads from stdin: at most 1 MiB, sent now")
    limits = parser.add_argument_group(
        "limits", "what is not given is as the server is set; a SIZE may end in K, M or G"
    )
    limits.add_argument(
        "--timeout", type=some(seconds), metavar="SECONDS", help="how long it may run; then it is stopped"
    )
    limits.add_argument("--memory", type=some(size), metavar="SIZE", help="memory of all its processes together")
    limits.add_argument("--cpus", type=some(float), metavar="N", help="processors' time that it may take, as 1.5")
    limits.add_argument(
        "--cpu-weight", type=some(COUNT), metavar="N", help="its share of scarce processors (100: usual)"
    )
    limits.add_argument("--processes", type=some(COUNT), metavar="N", help="processes and threads at a time")
    limits.add_argument("--output", type=some(size), metavar="SIZE", help="output that is recorded")
    limits.add_argument(
        "--stop-at-output", action="store_true", help="stop it when it writes more (else that is dropped, and counted)"
    )
    limits.add_argument("--open-files", type=some(COUNT), metavar="N", help="open files of each of its processes")
    limits.add_argument("--core", type=some(size), metavar="SIZE", help="size of a core dump")
    limits.add_argument("--nice", type=some(COUNT), metavar="N", help="how nice it is to others, 0 to 19")
    limits.add_argument(
        "--io-class", choices=IO_CLASSES, help="its turn at a disk: when nobody else wants it, or with others"
    )
    isolation = parser.add_argument_group("isolation", "'jobcli workers' shows what can be had")
    for name, help_ in ISOLATION.items():
        isolation.add_argument(f"--{name}", action="store_true", help=help_)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ARG…", help="what to run")


def limits_of(given: Mapping[str, Any]) -> Limits | None:
    """The limits among the arguments, or among the keys of a job in a file; None when there are none."""
    limits = Limits(
        memory_bytes=given.get("memory") or 0,
        cpus=given.get("cpus") or 0.0,
        cpu_weight=given.get("cpu_weight") or 0,
        processes=given.get("processes") or 0,
        timeout=timedelta(seconds=given.get("timeout") or 0),
        output_bytes=given.get("output") or 0,
        open_files=given.get("open_files") or 0,
        core_bytes=given.get("core") or 0,
        nice=given.get("nice") or 0,
        io_class=IO_CLASSES.get(given.get("io_class") or "", NO_IO_CLASS),
        stop_at_output=given.get("stop_at_output") or False,
    )
    return limits if limits != Limits() else None


def isolation_of(given: Mapping[str, Any]) -> Isolation | None:
    """The isolation among the arguments, or among the keys of a job in a file; None when there is none."""
    isolation = Isolation(**{name: bool(given.get(name)) for name in (key.replace("-", "_") for key in ISOLATION)})
    return isolation if isolation != Isolation() else None


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of the job, but for the command: arguments of :meth:`api.client.JobClient.start`.

    Raises:
        ConfigError: they cannot be used.
    """
    for word in (args.name, args.cwd, args.user, args.group):
        check_utf8(word)
    return {
        "name": args.name,
        "env": pairs_of(args.env, "--env"),
        "cwd": args.cwd,
        "limits": limits_of(vars(args)),
        "user": args.user,
        "group": args.group,
        "umask": args.umask,
        "secrets": secrets_of(args.secret),
        "isolation": isolation_of(vars(args)),
        "worker_labels": pairs_of(args.on, "--on"),
        "retry_lost": args.retry_lost,
    }


def pairs_of(pairs: list[str], flag: str) -> dict[str, str]:
    """``K=V`` pairs as a mapping.

    Raises:
        ConfigError: one has no ``=``.
    """
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"{flag} {pair!a} is not of the form K=V")
        check_utf8(pair)
    return dict(pair.split("=", 1) for pair in pairs)


def secrets_of(pairs: list[str]) -> dict[str, str]:
    """``K=@FILE`` and ``K=fd:N`` pairs as a mapping of what is there.

    Raises:
        ConfigError: one is neither, or cannot be read.
    """
    found = {}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not equals:
            raise ConfigError("--secret is not of the form K=@FILE or K=fd:N")
        check_utf8(name)
        found[name] = secret.read(name, source)
    return found


def argv_of(args: argparse.Namespace) -> list[str]:
    """The command to run.

    Raises:
        ConfigError: there is none, or it has bytes that are not UTF-8.
    """
    argv: list[str] = args.command
    if not argv:
        raise ConfigError("there is nothing to run; put the command after --")
    for word in argv:
        check_utf8(word)
    return argv


def check_utf8(word: str) -> None:
    """See that a word of the command line can be sent.

    Raises:
        ConfigError: it has bytes that are not UTF-8.
    """
    if any("\ud800" <= char <= "\udfff" for char in word):
        raise ConfigError(f"{word!a} is not UTF-8, which is what the protocol carries")


def seconds(text: str) -> float:
    """A time span for argparse: a number of seconds, 0 to a year."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number of seconds between 0 and a year")
    return value


def size(text: str) -> int:
    """A number of bytes for argparse, perhaps with K, M or G behind it (1024, 1024², 1024³)."""
    number, factor = text, 1
    if text[-1:].upper() in _UNITS:
        number, factor = text[:-1], _UNITS[text[-1].upper()]
    if not (number.isascii() and number.isdigit() and int(number[:20]) * factor < 2**62 and len(number) < 20):
        raise argparse.ArgumentTypeError(f"{text!a} is not a size: a whole number, perhaps with K, M or G behind it")
    return int(number) * factor


_UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30}


def mask(text: str) -> int:
    """A file mode creation mask for argparse, in octal as for umask(1)."""
    if not (text.isascii() and text.isdigit() and not set(text) & {"8", "9"} and int(text, 8) <= 0o777):
        raise argparse.ArgumentTypeError(f"{text!a} is not an octal number between 000 and 777")
    return int(text, 8)


def some(convert: Callable[[str], float]) -> Callable[[str], float]:
    """A limit for argparse, of which 0 is none: to the server it would say nothing at all."""

    def checked(text: str) -> float:
        value = convert(text)
        if value == 0:
            raise argparse.ArgumentTypeError(f"{text!a} is no limit; without the flag the server's holds")
        return value

    # What argparse says of a text that is none at all.
    checked.__name__ = getattr(convert, "__name__", "value")
    return checked


def whole(highest: int) -> Callable[[str], int]:
    """A whole number for argparse: 0 to ``highest``."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text[:20]) <= highest and len(text) < 20):
            raise argparse.ArgumentTypeError(f"{text!a} is not a whole number between 0 and {highest}")
        return int(text)

    return convert


OFFSET = whole(2**63 - 1)
COUNT = whole(2**31 - 1)
