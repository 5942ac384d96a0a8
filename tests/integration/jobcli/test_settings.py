"""The real ``jobcli`` against a daemon. Where settings come from."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.jobcli import Jobcli
from tests.support.pki import TestPki


def write_profile(path: Path, server: str, pki: TestPki) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = {"server": server, **pki.credentials("alice")}
    path.write_text("".join(f"{key} = {json.dumps(str(value))}\n" for key, value in lines.items()))
    assert tomllib.loads(path.read_text())


def without_settings(jobcli: Jobcli) -> Jobcli:
    return jobcli.but(JOBCLI_SERVER=None, JOBCLI_CERT=None, JOBCLI_KEY=None, JOBCLI_CA=None)


Arrange = Callable[[Jobcli, Path, str, TestPki], tuple[Jobcli, list[str]]]


def _profile_file(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", server, pki)
    return without_settings(jobcli), []


def _dev_file(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/dev.toml", server, pki)
    return without_settings(jobcli), []


def _profile_over_dev(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", server, pki)
    write_profile(config / "jobcli/dev.toml", "localhost:1", pki)
    return without_settings(jobcli), []


def _chosen_over_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:1", pki)
    write_profile(config / "mine.toml", server, pki)
    return without_settings(jobcli), ["--profile", str(config / "mine.toml")]


def _environment_over_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:1", pki)
    return without_settings(jobcli).but(JOBCLI_SERVER=server), []


def _flag_over_environment(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:2", pki)
    return without_settings(jobcli).but(JOBCLI_SERVER="localhost:1"), ["--server", server]


def _home(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config.parent / ".config/jobcli/profile.toml", server, pki)
    return without_settings(jobcli).but(XDG_CONFIG_HOME=None), []


def _beside_the_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    path = config / "jobcli/profile.toml"
    write_profile(path, server, pki)
    for file in pki.credentials("alice").values():
        (path.parent / file.name).write_bytes(file.read_bytes())
    path.write_text(path.read_text().replace(f"{pki.directory}/", ""))
    return without_settings(jobcli), []


@pytest.mark.parametrize(
    "arrange",
    [
        _profile_file,
        _dev_file,
        _profile_over_dev,
        _chosen_over_profile,
        _environment_over_profile,
        _flag_over_environment,
        _home,
        _beside_the_profile,
    ],
)
async def test_a_flag_wins_over_the_environment_and_that_over_the_profile(
    jobcli: Jobcli, pki: TestPki, tmp_path: Path, server: str, arrange: Arrange
) -> None:
    """Each arrangement has the right address in the place that wins, and wrong ones below it."""
    arranged, arguments = arrange(jobcli, tmp_path / "config", server, pki)
    assert "pending" in await arranged.ok("workers", "--retry-for", "0", *arguments)


async def test_a_profile_that_is_not_needed_is_not_read(jobcli: Jobcli, tmp_path: Path) -> None:
    """With every setting given, a broken profile hinders nobody."""
    path = tmp_path / "config/jobcli/profile.toml"
    path.parent.mkdir(parents=True)
    path.write_text("no TOML")
    await jobcli.ok("workers")
