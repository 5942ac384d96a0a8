"""``jobd dev``: a throw-away daemon, and a profile with which ``jobcli`` needs no flag."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.program import SECONDS, clean_environment, end, group_is_gone, program

# ---- jobd dev


@contextmanager
def dev(home: Path) -> Iterator[subprocess.Popen[str]]:
    """``jobd dev``, once it has said all that it says."""
    with program(["dev"], clean_environment(home)) as (process, first):
        assert first.startswith("jobd is listening on 127.0.0.1:")
        assert process.stdout is not None
        assert "jobcli run -- echo hello" in process.stdout.readline()
        assert "--profile" in process.stdout.readline()
        yield process


def jobcli(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """jobcli without any setting."""
    return subprocess.run(
        [sys.executable, "-m", "jobcli", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=clean_environment(home),
        check=False,
    )


def test_dev_leaves_a_profile_with_which_jobcli_works(tmp_path: Path) -> None:
    """In another terminal, without a flag."""
    with dev(tmp_path):
        done = jobcli(tmp_path, "run", "--", "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


def test_what_a_job_forks_at_once_is_in_its_control_group(tmp_path: Path) -> None:
    """From its first instruction on: a limit that does not hold for all of a job is none."""
    with dev(tmp_path):
        (worker,) = jobcli(tmp_path, "workers", "--json").stdout.splitlines()
        if json.loads(worker)["containment"] == "none":
            pytest.skip("needs control groups (root, or delegation)")
        for _ in range(5):
            job_id = jobcli(tmp_path, "start", "--", "sh", "-c", "cat /proc/self/cgroup; :").stdout.strip()
            assert f"/{job_id}\n" in jobcli(tmp_path, "stream", job_id).stdout


def test_dev_has_a_reader_too(tmp_path: Path) -> None:
    """A profile with which jobcli may look and not touch."""
    with dev(tmp_path):
        (reader,) = tmp_path.glob("jobd-dev-*/reader.toml")
        looked = jobcli(tmp_path, "--profile", str(reader), "list")
        touched = jobcli(tmp_path, "--profile", str(reader), "run", "--", "true")
    assert looked.returncode == 0
    assert touched.returncode == 125
    assert "needs the role writer" in touched.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_dev_takes_everything_with_it(tmp_path: Path, signum: int) -> None:
    """Profile, certificates, records and jobs are gone at the end, which is an orderly one."""
    with dev(tmp_path) as process:
        assert (tmp_path / "config/jobcli/dev.toml").stat().st_mode & 0o777 == 0o600
        started = jobcli(tmp_path, "start", "--json", "--", "sleep", "1000")
        pid = int(re.search(r'"pid": ([0-9]+)', started.stdout)[1])  # type: ignore[index] # no match is a failure
        code, _, err = end(process, signum)
    assert (code, err) == (0, "")
    assert not (tmp_path / "config/jobcli/dev.toml").exists()
    assert list(tmp_path.glob("jobd-dev-*")) == []
    assert group_is_gone(pid)


def test_dev_leaves_a_profile_of_the_user_alone(tmp_path: Path) -> None:
    """What the user has written wins over what dev leaves, and stays."""
    mine = tmp_path / "config/jobcli/profile.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('server = "localhost:1"\n')
    with dev(tmp_path):
        done = jobcli(tmp_path, "list")
    assert "missing: --cert" in done.stderr
    assert mine.read_text() == 'server = "localhost:1"\n'
