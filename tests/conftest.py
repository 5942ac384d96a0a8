"""Fixtures and guards for every test.

Guards: a test that leaves a descriptor, a child process, or an ERROR in the log that it did not ask for, fails.
Warnings are errors (pyproject.toml).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from structlog.typing import EventDict

from tests.support.live_pki import LivePki
from tests.support.pki import TestPki

# How long an example takes says how busy the machine is. All runs have the same examples, but for the session "model".
for profile, same in (("same", True), ("others", False)):
    hypothesis.settings.register_profile(
        profile, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=same
    )
hypothesis.settings.load_profile("same")

# A shell's & lets what it starts ignore SIGINT, and that is inherited: programs that the tests start are to have it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    """A CA, a server for localhost, and clients of every kind."""
    return TestPki.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def ours(tmp_path: Path) -> LivePki:
    """A CA of the test's own, with certificates and a list, all of which it may change."""
    return LivePki.grow(tmp_path / "pki")


@pytest.fixture
def errors_expected() -> list[EventDict]:
    """Ask for this in a test that makes ERRORs in the log; it then looks at them itself."""
    return []


@pytest.fixture(autouse=True)
def log_guard(request: pytest.FixtureRequest) -> Iterator[list[EventDict]]:
    """Fail a test that logs an ERROR which it did not ask for."""
    expected: list[EventDict] | None = (
        request.getfixturevalue("errors_expected") if "errors_expected" in request.fixturenames else None
    )
    with structlog.testing.capture_logs() as entries:
        yield entries
    errors = [entry for entry in entries if entry["log_level"] in ("error", "critical")]
    if expected is None:
        assert not errors, f"errors in the log that the test did not ask for: {errors}"
    else:
        expected += errors


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where judges are asked (``nox -s judges``), one that is not there fails: a skip would be taken for approval."""
    report = yield
    if report.skipped and "JOBD_JUDGES" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and every judge is to be asked: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """Fail a test that leaves descriptors or children behind."""
    before = _descriptors()
    yield
    left = {fd: target for fd, target in _descriptors().items() if fd not in before}
    assert not left, f"descriptors left open: {left}"
    with pytest.raises(ChildProcessError):  # no child at all, running or zombie
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found[fd.name] = str(fd.readlink())
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found
