"""``jobcli stream``: a job's output from the first byte to its verdict; several jobs with names in front."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import trio

from api.client import JobClient
from api.errors import ConfigError, JobdError
from api.messages import JobState, OutputSource, Verdict
from jobcli import exit_codes, render
from jobcli.commands._command import COUNT, OFFSET, Parser

HELP = "write the output of jobs, from the first byte until they have ended"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument(
        "--from",
        dest="offset",
        type=OFFSET,
        default=0,
        metavar="OFFSET",
        help="begin at this byte (default: 0, the first)",
    )
    parser.add_argument("-n", "--tail", type=COUNT, metavar="N", help="begin with the last N lines")
    parser.add_argument("--since", metavar="WHEN", help="begin at a time (RFC 3339) or so long ago (90s, 15m, 2h, 7d)")
    parser.add_argument("--only", choices=["stdout", "stderr"], help="only one of the two streams")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    options = _options(args)
    if len(args.ids) == 1:
        verdict = await follow(client, args.ids[0], **options)
        _warn(args.ids[0], verdict)
        return 0
    if args.offset:
        raise ConfigError("--from is for one job; its offsets mean nothing in another")
    return await _several(client, args.ids, options)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Where to begin, and with which stream, for :meth:`JobClient.stream`."""
    if sum(bool(given) for given in (args.offset, args.tail is not None, args.since)) > 1:
        raise ConfigError("--from, --tail and --since each say where to begin; give one of them")
    options: dict[str, Any] = {"offset": args.offset, "tail_lines": args.tail}
    if args.since:
        options["since"] = moment(args.since, datetime.now(UTC))
    if args.only:
        options["source"] = OutputSource.STDOUT if args.only == "stdout" else OutputSource.STDERR
    return options


def moment(text: str, now: datetime) -> datetime:
    """A time (RFC 3339; without a zone, local time), or so long before now (90s, 15m, 2h, 7d).

    Raises:
        ConfigError: it is neither.
    """
    if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in _UNITS:
        return now - timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text!a} is neither a time (2026-01-31T12:00:00Z) nor a duration (90s, 15m, 2h, 7d)"
        ) from None


_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


async def follow(client: JobClient, job_id: str, **options: Any) -> Verdict:
    """Write a job's output, byte for byte, to where the job wrote it; returns its verdict."""
    async with client.stream(job_id, **options) as output:
        while piece := await output.receive(render.output_at_once):
            await render.output(piece)
    assert output.verdict is not None  # the iteration does not end without one
    return output.verdict


async def _several(client: JobClient, ids: list[str], options: dict[str, Any]) -> int:
    jobs = [await client.query(job_id) for job_id in ids]
    names = _distinct([job.spec.name or job.id[:8] for job in jobs], [job.id[:8] for job in jobs])
    prefixed = render.Prefixed(names)
    codes: list[int] = []

    async def one(job_id: str, name: str) -> None:
        try:
            async with client.stream(job_id, **options) as output:
                async for chunk in output:
                    await prefixed.output(name, chunk)
            assert output.verdict is not None
            _warn(name, output.verdict)
            codes.append(0)
        except JobdError as exc:  # one job's stream that fails does not cut the others
            render.error(f"{name}: {exc}")
            codes.append(exit_codes.OUR_FAILURE)
        finally:
            with trio.CancelScope(shield=True):
                await prefixed.end(name)

    async with trio.open_nursery() as nursery:
        for job, name in zip(jobs, names, strict=True):
            nursery.start_soon(one, job.id, name)
    return max(codes)


def _distinct(names: list[str], ids: list[str]) -> list[str]:
    return [f"{name}@{id_}" if names.count(name) > 1 else name for name, id_ in zip(names, ids, strict=True)]


def _warn(job_id: str, verdict: Verdict) -> None:
    if verdict.state == JobState.LOST:
        render.note(f"{job_id}: {verdict.message}; its output ends here")
    if verdict.dropped_bytes:
        render.note(f"{job_id}: {verdict.dropped_bytes} bytes of output could not be recorded and are missing")
