"""The real ``jobcli``, run to its end, for tests without an event loop."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.support.daemon import JobdProgram
from tests.support.jobcli import SECONDS, environment_for
from tests.support.pki import TestPki


def environment(jobd: JobdProgram, pki: TestPki, who: str = "alice") -> dict[str, str]:
    """What it needs, and nothing of the developer's."""
    return {**environment_for(pki, jobd.state.parent, jobd.server, who), "TERM": "vt100"}


def jobcli(
    jobd: JobdProgram, pki: TestPki, *arguments: str, who: str = "alice", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run it; stdin is empty, unless ``options`` (of subprocess.run) give it another."""
    if not {"input", "stdin"} & set(options):
        options["stdin"] = subprocess.DEVNULL
    command = [sys.executable, "-m", "jobcli", *arguments]
    done = subprocess.run(
        command, env=environment(jobd, pki, who), capture_output=True, timeout=SECONDS, check=False, **options
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done
