"""``jobcli stream``: a job's output from the first byte to its verdict; several jobs with names in front."""

from __future__ import annotations

import argparse

import trio

from api.client import JobClient
from api.errors import ConfigError, JobdError
from api.messages import Verdict
from jobcli import exit_codes, render
from jobcli.commands._command import Parser

HELP = "write the output of jobs, from the first byte until they have ended"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument(
        "--from",
        dest="offset",
        type=int,
        default=0,
        metavar="OFFSET",
        help="begin at this byte (default: 0, the first)",
    )


async def run(args: argparse.Namespace, client: JobClient) -> int:
    if len(args.ids) == 1:
        verdict = await follow(client, args.ids[0], args.offset)
        _warn(args.ids[0], verdict)
        return 0
    if args.offset:
        raise ConfigError("--from is for one job; its offsets mean nothing in another")
    return await _several(client, args.ids)


async def follow(client: JobClient, job_id: str, offset: int = 0) -> Verdict:
    """Write a job's output, byte for byte, to where the job wrote it; returns its verdict."""
    async with client.stream(job_id, offset=offset) as output:
        async for chunk in output:
            await render.output(chunk)
    assert output.verdict is not None  # the iteration does not end without one
    return output.verdict


async def _several(client: JobClient, ids: list[str]) -> int:
    jobs = [await client.query(job_id) for job_id in ids]
    names = _distinct([job.spec.name or job.id[:8] for job in jobs], [job.id[:8] for job in jobs])
    prefixed = render.Prefixed(names)
    codes: list[int] = []

    async def one(job_id: str, name: str) -> None:
        try:
            async with client.stream(job_id) as output:
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
    if verdict.dropped_bytes:
        render.note(f"{job_id}: {verdict.dropped_bytes} bytes of output could not be recorded and are missing")
