"""What 'sh .ci/nox -s package' has built, and environments in which it is installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.installed import Installed

LOCK = ROOT / ".ci" / "locks" / "run.txt"


@pytest.fixture(scope="session")
def dist() -> Path:
    """The directory with the wheel and the sdist."""
    if "JOBD_DIST" not in os.environ:
        pytest.skip("needs packages to look at: sh .ci/nox -s package")
    return Path(os.environ["JOBD_DIST"]).resolve()


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    [found] = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    [found] = dist.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def locked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, with what it needs as the lock says, by its hashes."""
    directory = tmp_path_factory.mktemp("locked")
    return Installed.make(directory, ["--require-hashes", "-r", LOCK], ["--no-deps", wheel])


@pytest.fixture(scope="session")
def from_source(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The sdist, built and installed by pip, with what it needs as pip finds it."""
    return Installed.make(tmp_path_factory.mktemp("from-source"), [sdist])


@pytest.fixture(params=["locked", "from_source"])
def installed(request: pytest.FixtureRequest) -> Installed:
    """Each of the two."""
    made: Installed = request.getfixturevalue(request.param)
    return made
