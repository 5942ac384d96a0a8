"""What a server's metrics say, over HTTP and in a file; and that nobody can do it harm by asking."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from api.client import JobClient
from api.errors import ConfigError, PermissionDeniedError, ResourceExhaustedError
from jobd.daemon import Daemon, run
from jobd.metrics import exposition, http
from jobd.metrics.catalogue import LOST, METRICS
from jobd.quota import Quota, QuotaPolicy
from tests.support.daemon import config_for, jobd_program, open_daemon, until_dead
from tests.support.metrics import http as ask
from tests.support.metrics import parse, scrape, value
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool import free_port
from tests.support.program import SECONDS

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
START = {"service": "jobworker.v1.JobWorkerService", "method": "Start"}


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test asks more often than once a second."""
    monkeypatch.setattr(exposition, "FRESH", 0.0)


@asynccontextmanager
async def watched(pki: TestPki, tmp_path: Path, **settings: Any) -> AsyncIterator[Daemon]:
    with trio.fail_after(patient(30)):
        async with open_daemon(pki, tmp_path / "state", metrics="127.0.0.1:0", **settings) as daemon:
            yield daemon


def connect(pki: TestPki, daemon: Daemon, who: str = "alice") -> Any:
    server = daemon.address.replace("127.0.0.1", "localhost")
    return JobClient.connect(server, **pki.credentials(who), retry_for=0)


def where(daemon: Daemon) -> str:
    assert daemon.metrics is not None
    return daemon.metrics.address


async def test_every_metric_of_the_catalogue_is_told(pki: TestPki, tmp_path: Path) -> None:
    """With its meaning and its type; beside them those of the process, which every program has."""
    audited = watched(pki, tmp_path, audit_log=tmp_path / "audit.jsonl")
    async with audited as daemon, connect(pki, daemon) as client:
        job = await client.start(["true"])
        await client.wait(job.id)
        head, body = await ask(where(daemon), GET)
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    text = body.decode()
    samples = parse(text)
    named = {name for name, _ in samples}
    for metric in METRICS:
        assert f"# HELP {metric.name} {metric.help}\n" in text
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        sample = f"{metric.name}_bucket" if metric.kind == "histogram" else metric.name
        assert sample in named or metric.name == "jobd_launcher_up", "this daemon has no launcher"
    assert value(samples, "process_resident_memory_bytes") > 0
    lost = {reason: value(samples, "jobd_jobs_ended_total", {"state": "lost", "reason": reason}) for reason in LOST}
    assert set(lost.values()) == {0}, "whether it grows can be asked from the start"


async def test_calls_are_counted_by_method_and_status(pki: TestPki, tmp_path: Path) -> None:
    """Refused ones too; what is no method is one series, whatever it is called."""
    async with watched(pki, tmp_path) as daemon:
        async with connect(pki, daemon) as alice, connect(pki, daemon, "rita") as rita:
            for _ in range(3):
                await alice.start(["true"])
            with pytest.raises(PermissionDeniedError):
                await rita.start(["true"])
            samples = await scrape(where(daemon))
        assert value(samples, "jobd_calls_total", {**START, "code": "OK"}) == 3
        assert value(samples, "jobd_calls_total", {**START, "code": "PERMISSION_DENIED"}) == 1
        assert value(samples, "jobd_call_duration_seconds_count", START) == 4
        assert value(samples, "jobd_call_duration_seconds_bucket", {**START, "le": "+Inf"}) == 4
        assert value(samples, "jobd_call_duration_seconds_sum", START) > 0
        assert value(samples, "jobd_open_connections") == 2
        assert value(samples, "jobd_connections_total") == 2
        assert value(samples, "jobd_received_bytes_total") > 100
        assert value(samples, "jobd_sent_bytes_total") > 100


async def test_jobs_are_counted_from_the_queue_to_their_end(pki: TestPki, tmp_path: Path) -> None:
    """By state while they are there, by state and reason when they have ended; and what they wrote."""
    async with watched(pki, tmp_path, slots=1) as daemon, connect(pki, daemon) as client:
        await client.wait((await client.start(["sh", "-c", "printf 12345; exit 3"])).id)
        running, waiting = await client.start(["sleep", "1000"]), await client.start(["sleep", "1000"])
        samples = await scrape(where(daemon))
        assert value(samples, "jobd_jobs", {"state": "running"}) == 1
        assert value(samples, "jobd_jobs", {"state": "pending"}) == 1
        assert value(samples, "jobd_queue_length") == 1
        assert 0 < value(samples, "jobd_queue_oldest_seconds") < 30
        assert (value(samples, "jobd_slots"), value(samples, "jobd_queue_limit")) == (1, 10_000)
        assert value(samples, "jobd_jobs_accepted_total") == 3
        assert value(samples, "jobd_jobs_ended_total", {"state": "failed", "reason": "EXITED"}) == 1
        assert value(samples, "jobd_output_recorded_bytes_total") == 5
        assert value(samples, "jobd_output_stored_bytes", {"of": "ended"}) == 5
        assert value(samples, "jobd_store_commit_duration_seconds_count") >= 3
        assert value(samples, "jobd_store_up") == 1
        await client.stop(waiting.id)
        await client.stop(running.id)
        samples = await scrape(where(daemon))
        ended = {"state": "stopped", "reason": "STOPPED_BY_REQUEST"}
        assert value(samples, "jobd_jobs_ended_total", ended) == 2
        assert value(samples, "jobd_jobs", {"state": "running"}) == 0
        assert value(samples, "jobd_queue_oldest_seconds") == 0


async def test_what_is_dropped_is_counted(pki: TestPki, tmp_path: Path) -> None:
    """Output beyond the limit of a job."""
    async with watched(pki, tmp_path, max_output=4) as daemon, connect(pki, daemon) as client:
        await client.wait((await client.start(["printf", "1234567890"])).id)
        samples = await scrape(where(daemon))
        assert value(samples, "jobd_output_recorded_bytes_total") == 4
        assert value(samples, "jobd_output_dropped_bytes_total") == 6
        assert value(samples, "jobd_quota_refusals_total", {"reason": "TOO_MANY_CALLS"}) == 0


async def test_who_is_refused_for_a_quota_is_counted(pki: TestPki, tmp_path: Path) -> None:
    """By the reason."""
    quota = QuotaPolicy(Quota(calls_per_second=0.001))
    async with watched(pki, tmp_path, quota=quota) as daemon, connect(pki, daemon) as client:
        await client.start(["true"])
        for _ in range(2):
            with pytest.raises(ResourceExhaustedError):
                await client.start(["true"])
        samples = await scrape(where(daemon))
        assert value(samples, "jobd_quota_refusals_total", {"reason": "TOO_MANY_CALLS"}) == 2
        assert value(samples, "jobd_calls_total", {**START, "code": "RESOURCE_EXHAUSTED"}) == 2


async def test_it_says_until_when_certificates_are_good(pki: TestPki, tmp_path: Path) -> None:
    """The server's own and the CA's, in seconds since the epoch."""
    async with watched(pki, tmp_path) as daemon:
        samples = await scrape(where(daemon))
    name = "jobd_certificate_expiry_timestamp_seconds"
    kinds = {dict(labels)["kind"] for found, labels in samples if found == name}
    assert kinds == {"certificate", "ca"}
    assert value(samples, name, {"kind": "certificate"}) > 1.7e9
    assert value(samples, "jobd_certificate_files_ok") == 1


# ---- who asks


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * http.HEAD + b"\r\n\r\n", b"431"),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"200"),
    ],
    ids=["another path", "dots", "another method", "HTTP/0.9", "TLS", "too long", "HTTP/1.0"],
)
async def test_a_request_that_is_none_is_answered_so(
    pki: TestPki, tmp_path: Path, request_: bytes, status: bytes
) -> None:
    """Each in one answer, and the connection ends."""
    async with watched(pki, tmp_path) as daemon:
        head, _ = await ask(where(daemon), request_)
    assert head.split()[1] == status


async def test_whoever_says_nothing_keeps_nobody_out(
    pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more connection takes the place of the oldest; calls are served all the while."""
    monkeypatch.setattr(http, "TIME", 1000.0)
    async with watched(pki, tmp_path) as daemon, connect(pki, daemon) as client:
        host, _, port = where(daemon).rpartition(":")
        silent = [await trio.open_tcp_stream(host, int(port)) for _ in range(3 * http.CONNECTIONS)]
        await scrape(where(daemon))
        await client.start(["true"])
        with trio.fail_after(patient(20)):
            for stream in silent[: 2 * http.CONNECTIONS]:
                assert await stream.receive_some() == b""
        for stream in silent:
            await stream.aclose()


async def test_a_connection_has_so_much_time(pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing is ended."""
    monkeypatch.setattr(http, "TIME", 0.05)
    async with watched(pki, tmp_path) as daemon:
        assert await ask(where(daemon), b"GET /metrics HTTP/1.1\r\n") == (b"", b"")


async def test_asking_all_the_time_is_answered_from_memory(
    pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made for one is given to those who come within a second."""
    monkeypatch.setattr(exposition, "FRESH", 1000.0)
    async with watched(pki, tmp_path) as daemon, connect(pki, daemon) as client:
        first = await ask(where(daemon), GET)
        await client.start(["true"])
        assert await ask(where(daemon), GET) == first


# ---- what cannot be had


async def test_only_loopback_unless_it_is_said(pki: TestPki, tmp_path: Path) -> None:
    """Others could read it."""
    with pytest.raises(ConfigError, match=r"--metrics 0\.0\.0\.0:0: others can reach.*--metrics-anywhere"):
        await run(config_for(pki, tmp_path / "state", metrics="0.0.0.0:0"))
    with trio.fail_after(patient(20)):
        async with open_daemon(pki, tmp_path / "state", metrics="0.0.0.0:0", metrics_anywhere=True) as daemon:
            assert where(daemon).startswith("0.0.0.0:")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"metrics": "somewhere"}, "'somewhere' is not an address"),
        ({"metrics_file": Path("/nowhere/at/all.prom")}, "there is no directory /nowhere/at"),
        ({"metrics_file": Path("/tmp")}, "name a file in it"),
    ],
    ids=["address", "no directory", "a directory"],
)
async def test_settings_that_cannot_be_used_are_told_at_the_start(
    pki: TestPki, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    """Nothing was started."""
    with pytest.raises(ConfigError, match=says):
        await run(config_for(pki, tmp_path / "state", **settings))


async def test_a_port_in_use_is_told_at_the_start(pki: TestPki, tmp_path: Path) -> None:
    """By the name of the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            await run(config_for(pki, tmp_path / "state", metrics=f"127.0.0.1:{port}"))


# ---- the file


async def test_the_file_has_the_same(pki: TestPki, tmp_path: Path) -> None:
    """For everybody to read, and whole at every moment: each is a new one."""
    path = tmp_path / "jobd.prom"
    with trio.fail_after(patient(20)):
        settings = {"metrics_file": path, "metrics_interval": 0.01}
        async with open_daemon(pki, tmp_path / "state", **settings) as daemon:
            assert daemon.metrics is not None
            assert daemon.metrics.address == ""
            seen = set()
            while len(seen) < 3:
                await trio.sleep(0.001)
                if path.exists():
                    seen.add(path.stat().st_ino)
                    assert value(parse(path.read_text()), "jobd_build_info") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert {each.name for each in tmp_path.iterdir()} == {"jobd.prom", "state"}


async def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(
    pki: TestPki, tmp_path: Path, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """The server goes on meanwhile."""
    directory = tmp_path / "textfile"
    directory.mkdir()

    async def told(event: str) -> None:
        while not any(entry["event"] == event for entry in log_guard):
            await trio.sleep(0.001)

    settings = {"metrics_file": directory / "jobd.prom", "metrics_interval": 0.01}
    with trio.fail_after(patient(20)):
        async with open_daemon(pki, tmp_path / "state", **settings) as daemon, connect(pki, daemon) as client:
            while not (directory / "jobd.prom").exists():
                await trio.sleep(0.001)
            directory.rename(tmp_path / "away")
            await told("the file of metrics cannot be written")
            await client.start(["true"])
            await trio.sleep(0.05)
            (tmp_path / "away").rename(directory)
            await told("the file of metrics can be written again")
    errors = [entry for entry in log_guard if entry["log_level"] == "error"]
    assert [entry["event"] for entry in errors] == ["the file of metrics cannot be written"]


# ---- the program


async def test_the_next_server_tells_its_own(pki: TestPki, tmp_path: Path) -> None:
    """At the same address, after a kill; the launcher lives, and no job counts twice."""
    address = f"127.0.0.1:{free_port()}"
    with jobd_program(pki, tmp_path / "state", "--metrics", address) as program, trio.fail_after(patient(60)):
        async with JobClient.connect(program.server, **pki.credentials("alice")) as client:
            await client.start(["sleep", "1000"])
            samples = await scrape(address)
            assert value(samples, "jobd_launcher_up") == 1
            assert value(samples, "jobd_jobs_accepted_total") == 1
            before = value(samples, "process_start_time_seconds")
            program.kill_server()
            [job] = [job async for job in client.list()]  # by the next one
            samples = await scrape(address)
            assert value(samples, "process_start_time_seconds") > before
            assert value(samples, "jobd_jobs", {"state": "running"}) == 1
            assert value(samples, "jobd_jobs_accepted_total") == 0
            await client.stop(job.id)


def until_free(address: tuple[str, int]) -> socket.socket:
    """A socket on an address that a dead process may have for as long as one of its threads is not gone."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_server(address)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.002)


async def test_an_address_that_is_taken_meanwhile_keeps_the_next_server_from_nothing(
    pki: TestPki, tmp_path: Path
) -> None:
    """It says so, serves, and has its address when that is free again."""
    address = "127.0.0.1", free_port()
    settings = ("--metrics", "{}:{}".format(*address))
    with jobd_program(pki, tmp_path / "state", *settings) as program, trio.fail_after(patient(60)):
        os.kill(program.launcher, signal.SIGSTOP)  # it starts the next one when the address is taken
        server = await trio.to_thread.run_sync(program.server_pid)
        program.kill_server()
        until_dead(server)
        with until_free(address):
            os.kill(program.launcher, signal.SIGCONT)
            async with JobClient.connect(program.server, **pki.credentials("alice")) as client:
                await client.wait((await client.start(["true"])).id)
        assert "metrics cannot be served now" in program.log.read_text()
        while "metrics are served" not in program.log.read_text().split("metrics cannot be served now")[1]:
            await trio.sleep(0.01)
        assert value(await scrape(settings[1]), "jobd_jobs_accepted_total") == 1
