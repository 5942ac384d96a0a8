"""``jobd dev``: a throw-away daemon, with certificates of its own and a profile from which jobcli works at once.

Everything is in one private directory that goes when the daemon ends; the profile is ``dev.toml`` in jobcli's
directory of profiles, so a profile of the user's own is never touched and always wins.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from api.errors import JobdError
from api.identity import Role
from api.nearest import Parser
from jobd import logs
from jobd.config import Config
from jobd.daemon import Daemon
from jobd.server import EXIT_USAGE, exit_code, run_until_signalled
from pki.authority import Authority

LIFETIME: Final = timedelta(days=7)
HOSTS: Final = ("localhost", "127.0.0.1")


def parser() -> argparse.ArgumentParser:
    """The parser; documentation is made from it."""
    made = Parser(
        prog="jobd dev",
        description="Starts a throw-away jobd on a free loopback port, with a CA and certificates of its own, and "
        "leaves a profile from which jobcli works in another terminal with no flag at all. Ends with Ctrl-C; "
        "jobs, records and certificates go with it. It is one process, without a launcher: jobs do not outlive it.",
        allow_abbrev=False,
    )
    made.add_argument("--slots", type=int, default=64, metavar="N", help="how many jobs run at a time (default: 64)")
    return made


def main(argv: Sequence[str]) -> int:
    """Run ``jobd dev``; returns the exit code."""
    args = parser().parse_args(argv)
    if args.slots < 1:
        print("jobd dev: --slots is at least 1", file=sys.stderr)
        return EXIT_USAGE
    logs.configure("warning")
    try:
        return _run(args)
    except JobdError as exc:
        print(f"jobd dev: {exc}", file=sys.stderr)
        return EXIT_USAGE


def _run(args: argparse.Namespace) -> int:
    with _private_directory() as directory:
        config = make(directory, slots=args.slots)
        with contextlib.ExitStack() as profile:

            def ready(daemon: Daemon) -> None:
                port = daemon.address.rpartition(":")[2]
                path = profile.enter_context(_profile(directory, port))
                print(f"jobd is listening on {daemon.address}", flush=True)
                print(f"jobcli works in another terminal, as a writer: jobcli run -- echo hello   (profile {path})")
                print(f"as a reader: jobcli --profile {directory / 'reader.toml'} list", flush=True)

            return exit_code(run_until_signalled, config, ready)


def make(directory: Path, *, slots: int) -> Config:
    """Make the CA and the certificates; returns the settings of a daemon that uses them."""
    now = datetime.now(UTC)
    authority = Authority.create(directory / "pki", now=now, name="jobd dev", lifetime=LIFETIME + timedelta(days=1))
    server = authority.issue_server(directory / "pki", HOSTS, now=now, lifetime=LIFETIME)
    for role in (Role.READER, Role.WRITER):
        authority.issue_client(directory / "pki", role, [role], now=now, lifetime=LIFETIME)
    return Config(
        cert=server.certificate,
        key=server.key,
        ca=authority.certificate_path,
        listen="127.0.0.1:0",
        state=directory / "state",
        slots=slots,
    )


@contextmanager
def _private_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="jobd-dev-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _profile(directory: Path, port: str) -> Iterator[Path]:
    """Leave the profiles: the writer's where jobcli looks, the reader's in the private directory."""
    base = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(base) if base else Path.home() / ".config") / "jobcli" / "dev.toml"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = _profile_text(directory, port, Role.WRITER)
    (directory / "reader.toml").write_text(_profile_text(directory, port, Role.READER))
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == text:  # another 'jobd dev' may have left its own since
                path.unlink()


def _profile_text(directory: Path, port: str, role: Role) -> str:
    pki = directory / "pki"
    return (
        f'server = "localhost:{port}"\ncert = "{pki / role}.crt"\nkey = "{pki / role}.key"\nca = "{pki / "ca.crt"}"\n'
    )
