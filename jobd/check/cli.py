"""The command ``jobd check``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from api.nearest import Parser
from jobd import logs, server
from jobd.check import machine, settings, state, watching
from jobd.check.finding import Finding, Findings, Verdict, weak
from jobd.config import Config, Flags, load
from jobd.origin import with_origin

EXIT_WRONG: Final = 1
EXIT_USAGE: Final = 2


def parser() -> argparse.ArgumentParser:
    """The parser; documentation is made from it."""
    made = Parser(
        prog="jobd check",
        usage="jobd check [-h] [--json] [OPTIONS OF jobd]",
        description="Looks at the settings that jobd would have with these options, at the files, users and "
        "directories that they name, and at the machine; says what is good, what is weaker than it could be and why, "
        "what is wrong, and what was not tried, since a jobd that runs has it. Nothing is started or changed, and a "
        "jobd that runs is not disturbed. Run it as whoever starts jobd, and where: control groups are those that it "
        "is in itself. Exits with 0, with 1 when something is wrong, with 2 when the settings cannot be used at all.",
        allow_abbrev=False,
    )
    made.add_argument("--json", action="store_true", help="one JSON object a line: verdict, about, says")
    return made


def main(argv: Sequence[str]) -> int:
    """Run ``jobd check``; returns the exit code."""
    args, rest = parser().parse_known_args(argv)
    flags = vars(server.parser().parse_args(rest))
    file = flags.pop("config") or os.environ.get("JOBD_CONFIG")
    logs.configure("error")
    path = Path(file) if file else None
    try:
        config = load(flags, os.environ, path)
    except ConfigError as exc:
        print(f"jobd check: {exc}", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _print(_with_origins(findings(config, path), flags, path), as_json=args.json)
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_WRONG


def _print(found: Findings, *, as_json: bool) -> int:
    wrong = False
    for finding in found:
        print(json.dumps(asdict(finding)) if as_json else _line(finding), flush=True)
        wrong |= finding.verdict is Verdict.WRONG
    return EXIT_WRONG if wrong else 0


def _with_origins(found: Findings, flags: Flags, file: Path | None) -> Findings:
    """Where it was said what is not good."""
    for each in found:
        is_good = each.verdict is Verdict.GOOD
        yield each if is_good else replace(each, says=with_origin(each.says, flags, os.environ, file))


def findings(config: Config, file: Path | None = None) -> Findings:
    """All of them, in the order in which one would look.

    Args:
        file: that the settings are in.
    """
    in_use = state.is_in_use(config)
    yield from _looked("settings", settings.file(file))
    yield from _looked("certificates", settings.certificates(config))
    yield from _looked("address", settings.address(config, in_use=in_use))
    yield from _looked("users", settings.users(config))
    yield from _looked("state", state.directory(config, in_use=in_use))
    yield from _looked("disk", state.disk(config))
    yield from _looked("control groups", settings.containment(config))
    yield from _looked("isolation", settings.isolation(config))
    yield from _looked("pool", settings.pool(config))
    yield from _looked("metrics", watching.metrics(config, in_use=in_use))
    yield from _looked("audit log", watching.audit(config))
    yield from _looked("kernel", machine.kernel())
    yield from _looked("proc", machine.proc(config))
    yield from _looked("clock", machine.clock())
    yield from _looked("descriptors", machine.descriptors(config))
    yield from _looked("pipes", machine.pipes(config))


def _looked(about: str, found: Findings) -> Findings:
    """What was found; or that it could not be looked at, and the rest can."""
    try:
        yield from found
    except OSError as exc:
        yield weak(about, f"it could not be looked at: {exc.filename or ''} {exc.strerror or exc}")


def _line(finding: Finding) -> str:
    text = f"{finding.verdict:<7}  {finding.about}: {finding.says}"
    return text if text.isprintable() else ascii(text)[1:-1]
