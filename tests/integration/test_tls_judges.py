"""What programs that look for weak TLS say of a jobd: sslscan and testssl.

Each is asked in the session of the judges, since it takes its time, and if it is installed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio

from tests.support.patience import patient

SECONDS = patient(300)
ASKED = "JOBD_JUDGES" in os.environ
SSLSCAN, TESTSSL = (shutil.which(name) if ASKED else None for name in ("sslscan", "testssl"))


async def said(*command: str) -> str:
    """What a judge says; its exit code is how bad it finds it, in its own measure."""
    with trio.fail_after(SECONDS):
        done = await trio.run_process(list(command), capture_stdout=True, capture_stderr=True, check=False)
    return done.stdout.decode(errors="replace")


@pytest.mark.skipif(SSLSCAN is None, reason="needs sslscan: sh .ci/nox -s judges")
async def test_sslscan_finds_tls_1_3_and_nothing_else(server: str) -> None:
    """No older version, no cipher of one, no compression, no renegotiation, no Heartbleed."""
    found = ElementTree.fromstring(await said(str(SSLSCAN), "--no-colour", "--xml=-", server))
    enabled = [(each.get("type"), each.get("version")) for each in found.iter("protocol") if each.get("enabled") == "1"]
    assert enabled == [("tls", "1.3")]
    ciphers = [(each.get("sslversion"), int(each.get("bits") or 0)) for each in found.iter("cipher")]
    assert ciphers
    assert all(version == "TLSv1.3" and bits >= 128 for version, bits in ciphers)
    assert [each.get("supported") for each in found.iter("compression")] in ([], ["0"])
    assert [each.get("supported") for each in found.iter("renegotiation")] in ([], ["0"])
    assert {each.get("vulnerable") for each in found.iter("heartbleed")} <= {"0"}


@pytest.mark.skipif(TESTSSL is None, reason="needs testssl: sh .ci/nox -s judges")
async def test_testssl_finds_tls_1_3_and_nothing_else(server: str, tmp_path: Path) -> None:
    """Of the versions; and nothing that it calls low, or worse."""
    report = tmp_path / "report.json"
    options = ["--quiet", "--color=0", "--warnings=batch", "--ip=one", "--nodns=min", f"--jsonfile={report}"]
    text = await said(str(TESTSSL), *options, "--protocols", server)
    assert report.exists(), text
    findings = {each["id"]: each for each in json.loads(report.read_text())}
    older = {name: findings[name]["finding"] for name in ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2")}
    assert set(older.values()) == {"not offered"}, older
    assert findings["TLS1_3"]["finding"].startswith("offered")
    assert {each["severity"] for each in findings.values()} <= {"OK", "INFO", "WARN", "DEBUG"}
