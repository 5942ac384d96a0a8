"""Writes docs/api.md from the .proto files, docs/cli.md from the parsers, docs/limits.md from the table of limits and
docs/metrics.md from the catalogue of metrics; a test fails when they differ.

python docs/generate.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from api.methods import METHODS
from jobcli import cli as jobcli
from jobd import dev, upgrade
from jobd import server as jobd
from jobd.audit import cli as audit
from jobd.backup.cli import backup_parser, restore_parser
from jobd.check import cli as check
from jobd.metrics.catalogue import METRICS
from jobd.rules import IO_CLASSES
from jobd.worker.containment import CONTAINED
from jobd.worker.job import LIMITS
from pki import cli as jobpki

DOCS = Path(__file__).parent
PROTO = DOCS.parent / "api" / "proto"
PROTOS = (
    PROTO / "jobworker" / "v1" / "job_worker.proto",
    PROTO / "grpc" / "health" / "v1" / "health.proto",
    PROTO / "grpc" / "reflection" / "v1" / "reflection.proto",
)

CARDINALITIES = """Methods are unary, stream their answers, or stream both ways; none streams its requests alone.
(What serves them can: grpcio tries it, on a service of the tests.)"""

_BLOCK = re.compile(r"^ *(message|enum|service) (\w+) \{(\})?$")
_FIELD = re.compile(r"^\s+(?:(optional|repeated) )?([\w.<>, ]+?) (\w+) = (\d+);")
_VALUE = re.compile(r"^\s+(\w+) = (\d+);")
_RPC = re.compile(r"^\s+rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);")


def api() -> str:
    """The API reference."""
    roles = {method.name: method.role for method in METHODS}
    lines = ["# The gRPC API", "", "Made from the files in `api/proto/`; do not edit.", "", CARDINALITIES, ""]
    comment: list[str] = []
    for line in [line for proto in PROTOS for line in proto.read_text().splitlines()]:
        text = line.strip()
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        if text.startswith("package "):
            lines += ["", f"Package `{text.split()[1].rstrip(';')}`.", "", *paragraphs(comment), ""]
        elif block := _BLOCK.match(line):
            lines += ["", f"## {block[1]} `{block[2]}`", "", *paragraphs(comment), ""]
        elif rpc := _RPC.match(line):
            request = f"{'a stream of ' if rpc[2] else ''}[`{rpc[3]}`](#message-{rpc[3].lower()})"
            answer = f"{'a stream of ' if rpc[4] else ''}[`{rpc[5]}`](#message-{rpc[5].lower()})"
            lines += [
                f"### `{rpc[1]}`",
                "",
                f"{request} → {answer}. Needs the role **{roles[rpc[1]]}**.",
                "",
                *paragraphs(comment),
                "",
            ]
        elif value := _VALUE.match(line):
            lines.append(f"- `{value[1]}` = {value[2]}: {' '.join(comment) or '—'}")
        elif field := _FIELD.match(line):
            label = f"{field[1]} " if field[1] else ""
            lines.append(f"- `{field[3]}` ({label}{field[2]}, {field[4]}): {' '.join(comment) or '—'}")
        comment = []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def paragraphs(comment: list[str]) -> list[str]:
    return comment or []


def jobd_parsers() -> list[argparse.ArgumentParser]:
    """That of jobd, then those of its commands."""
    commands = (dev.parser(), upgrade.parser(), check.parser(), backup_parser(), restore_parser(), audit.parser())
    return [jobd.parser(), *commands]


def parsers() -> list[argparse.ArgumentParser]:
    """Those of all programs, new with each call."""
    return [*jobd_parsers(), jobcli.parser(), jobpki.build_parser()]


def cli() -> str:
    """The CLI reference."""
    lines = [
        "# Commands",
        "",
        "Made from the parsers of the programs; do not edit. What `--file` takes, and `--json` prints:",
        "[operations](operations.md#several-jobs-in-one-file).",
        "",
    ]
    for parser in parsers():
        lines += describe(parser, level=2)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def limits() -> str:
    """The table of limits."""
    lines = [
        "# What a job may use",
        "",
        "Made from the table of limits, the contract and the parsers; do not edit.",
        "",
        "0, or nothing, is no limit of its own: then the defaults and ceilings of the configuration hold, where there",
        "are some (see [operations](operations.md#what-holds-a-jobs-processes-together)). Anything else has to be",
        "within the bounds, or is refused by the name of its field, and nothing is started. So is more memory,",
        "processors, processes (`kernel.pid_max`) or open files (`fs.nr_open`) than the machine has,",
        "or jobd's own container or unit may have.",
        "",
        "| `jobcli start` | in the configuration | in the contract | from | to | holds | what it is |",
        "|---|---|---|---|---|---|---|",
    ]
    said = dict(_comments_of("Limits"))
    for name, (field, lowest, highest) in LIMITS.items():
        key = name.replace("_", "-")
        where = "in a control group" if name in CONTAINED else "everywhere"
        bounds = ("false", "true") if (lowest, highest) == (1, 1) else (_bound(lowest), _bound(highest))
        bounds = tuple(IO_CLASSES) if name == "io_class" else bounds
        lines.append(f"| `--{key}` | `{key}` | `{field}` | {bounds[0]} | {bounds[1]} | {where} | {said[field]} |")
    lines += ["", "A limit that only a control group can hold is refused where there is none."]
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """The table of metrics."""
    lines = [
        "# Metrics",
        "",
        "Made from the catalogue of metrics; do not edit. How to have them: [operations](operations.md#metrics).",
        "",
        "| metric | type | labels | what it is |",
        "|---|---|---|---|",
    ]
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} |")
    lines += [
        "",
        "Counters begin at 0 with each server. Beside these there are those that every program has:",
        "`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_start_time_seconds`, …, of the server.",
    ]
    return "\n".join(lines) + "\n"


def _bound(value: float) -> str:
    exponent = value.bit_length() - 1 if isinstance(value, int) and value > 0 else 0
    return f"2^{exponent}" if exponent > 20 and value == 2**exponent else f"{value:,}"


def _comments_of(message: str) -> Iterator[tuple[str, str]]:
    """The fields of a message of the contract, and what is said of each."""
    comment: list[str] = []
    inside = False
    for line in PROTOS[0].read_text().splitlines():
        text = line.strip()
        if block := _BLOCK.match(line):
            inside = block[2] == message
        elif text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        elif inside and (field := _FIELD.match(line)):
            yield field[3], " ".join(comment)
        comment = []


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its options and arguments, in their order."""
    return parser._actions  # noqa: SLF001 # argparse has no public way to list them


def commands_of(action: argparse.Action) -> list[argparse.ArgumentParser]:
    """The parsers of the commands that it is a choice of; none when it is something else."""
    choices = action.choices.values() if isinstance(action.choices, dict) else ()
    return [each for each in dict.fromkeys(choices) if isinstance(each, argparse.ArgumentParser)]


def describe(parser: argparse.ArgumentParser, level: int, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """One command, then its sub-commands, each without the options that it shares with the one above."""
    yield from (f"{'#' * level} `{parser.prog}`", "", (parser.description or "").strip(), "")
    nested: list[argparse.ArgumentParser] = []
    for action in actions_of(parser):
        if commands := commands_of(action):
            nested += commands
        elif "--help" not in action.option_strings:
            names = ", ".join(action.option_strings)
            if names and names in known:
                continue
            known = known | {names}
            value = metavar(action)
            text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
            yield f"- `{' '.join(part for part in (names, value) if part)}`: {text}".rstrip(": ")
    yield ""
    if parser.epilog:
        yield from (parser.epilog, "")
    for each in nested:
        yield from describe(each, level + 1, known)


def metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    shown = action.metavar or (action.choices and "{" + ",".join(map(str, action.choices)) + "}") or action.dest.upper()
    many = "…" if action.nargs in ("+", "*") else ""
    return f"{shown}{many}"


def main() -> None:
    (DOCS / "api.md").write_text(api())
    (DOCS / "cli.md").write_text(cli())
    (DOCS / "limits.md").write_text(limits())
    (DOCS / "metrics.md").write_text(metrics())


if __name__ == "__main__":
    main()
