"""Who is to be woken is: a real Prometheus and a real Alertmanager, with the files that the documents show.

They are asked in the session of the judges, and if they are installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.daemon import ROOT, open_daemon
from tests.support.etcd import HOST
from tests.support.live_pki import LivePki
from tests.support.patience import patient

ASKED = "JOBD_JUDGES" in os.environ
PROGRAMS = {name: shutil.which(name) for name in ("prometheus", "prometheus-alertmanager", "promtool", "amtool")}
MISSING = sorted(name for name, found in PROGRAMS.items() if not (ASKED and found))
MANUAL = (ROOT / "docs" / "operations.md").read_text()
PROMETHEUS, ALERTMANAGER = f"{HOST}:9090", f"{HOST}:9093"
SOON = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
"""In place of a minute each."""


def shown(name: str) -> str:
    """A file of the manual."""
    [found] = re.findall(rf"```yaml\n(# {name}\n.*?)```", MANUAL, re.DOTALL)
    return str(found)


def commands() -> list[str]:
    """Those that the manual has for looking at the files, and for a trial."""
    return [" ".join(found.split()) for found in re.findall(r"`((?:amtool|promtool check)\s[^`]+)`", MANUAL)]


@contextmanager
def pager() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Something that is told of alerts: its address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Pager(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((HOST, 0), Pager) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"{HOST}:{server.server_port}", told
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def running(log: Path, *command: str) -> AsyncIterator[None]:
    """A program, until the end of the block; it is not to end before."""
    with log.open("wb") as out:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await trio.run_process(command, stdout=out, stderr=out, check=False, cwd=log.parent)
                raise AssertionError(log.read_text())

            nursery.start_soon(run)
            yield
            nursery.cancel_scope.cancel()


async def until(told: list[dict[str, Any]], seen: Callable[[dict[str, str]], bool]) -> dict[str, Any]:
    """Wait for an alert with such labels."""
    while True:
        for each in told:
            if seen(each["labels"]):
                return each
        await trio.sleep(0.05)


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: sh .ci/nox -s judges")
async def test_who_is_to_be_woken_is(tmp_path: Path) -> None:
    """A revocation list ends within a day: the pager hears of it. So it does of the trial that the manual has."""
    (tmp_path / "pki").mkdir()
    pki = LivePki.grow(tmp_path / "pki")
    with trio.fail_after(patient(60)), pager() as (address, told):
        async with open_daemon(pki, tmp_path / "state", crl=pki.crl, metrics="127.0.0.1:0") as daemon:
            assert daemon.metrics
            files = {
                "alerts.yml": (ROOT / "docs" / "monitoring" / "alerts.yml").read_text(),
                "prometheus.yml": SOON
                + shown("prometheus.yml")
                .replace("127.0.0.1:9464", daemon.metrics.address)
                .replace("127.0.0.1:9093", ALERTMANAGER),
                "alertmanager.yml": shown("alertmanager.yml")
                .replace("127.0.0.1:8080", address)
                .replace("route:\n", "route:\n  group_wait: 1s\n", 1),
            }
            for name, text in files.items():
                (tmp_path / name).write_text(text)
            alertmanager = (
                *("prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alerts"),
                *(f"--web.listen-address={ALERTMANAGER}", "--cluster.listen-address="),
            )
            prometheus = (
                *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=series"),
                f"--web.listen-address={PROMETHEUS}",
            )
            async with (
                running(tmp_path / "alertmanager.log", *alertmanager),
                running(tmp_path / "prometheus.log", *prometheus),
            ):
                woken = await until(told, lambda labels: labels["alertname"] == "JobdRevocationListExpiresSoon")
                assert woken["labels"]["severity"] == "critical"
                assert "revocation list of 'CN=live CA' on" in woken["annotations"]["summary"]
                assert len(commands()) == 3
                for command in commands():
                    here = command.replace("127.0.0.1:9093", ALERTMANAGER)
                    await trio.run_process(["bash", "-c", here], cwd=tmp_path, capture_stdout=True)
                await until(told, lambda labels: labels["alertname"] == "Trial")
