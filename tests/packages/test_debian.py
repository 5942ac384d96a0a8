"""The Debian packages: what is in them; and each in a Debian of its release: installed, used, removed, purged.

Such a Debian is made by debootstrap, once, in build/debian; it takes root.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from api.version import VERSION
from tests.machine import image
from tests.support.accounts import needs_root
from tests.support.daemon import ROOT
from tests.support.shown import shown_in

SUITES: Final = {"12": "bookworm", "13": "trixie"}
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPTS: Final = ("postinst", "prerm", "postrm")
LEFT_OUT: Final = ("var/lib/dpkg", "var/log", "var/cache", "root", "tmp", "etc/passwd", "etc/group", "etc/shadow")
LEFT_OUT_TOO: Final = ("etc/gshadow", "etc/subuid", "etc/subgid", "etc/.pwd.lock", "etc/jobd/server", "etc/jobd/ca")
SET_UP: Final = "\n".join(shown_in("README.Debian", ""))
"""What the package tells the operator to do."""
HERE: Final = {"NAME-OF-THIS-MACHINE": "127.0.0.1", "jobd.toml": "jobd.toml --listen 127.0.0.1:0"}
USED: Final = """
mkfifo /tmp/ready
jobd --config /etc/jobd/jobd.toml --listen 127.0.0.1:0 > /tmp/ready &
jobd=$!
read -r _ _ _ _ address < /tmp/ready
server="$address"
pki=/root/jobd-pki
jobcli --server "$server" --ca $pki/ca.crt --cert $pki/alice.crt --key $pki/alice.key \
    run -- sh -c 'id -un; id -u; cat /etc/jobd/server.key || echo refused'
kill "$jobd"
wait "$jobd"
"""


def packages() -> list[Path]:
    return sorted(Path(os.environ.get("JOBD_DIST", "nowhere")).resolve().glob("jobd_*.deb"))


def release_of(package: Path) -> str:
    return package.name.partition("+deb")[2].partition("_")[0]


pytestmark = pytest.mark.skipif(not packages(), reason="needs Debian packages to look at: sh .ci/nox -s debian")


@pytest.fixture(params=packages(), ids=release_of, scope="module")
def package(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def said(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


# ---- what is in it


def test_it_has_no_more_than_it_should(package: Path) -> None:
    """Files of root's, that nobody else can write, where Debian has them; one that the operator may change."""
    for line in said("dpkg-deb", "--contents", package).splitlines():
        mode, owner, _, _, _, name, *_ = line.split()
        assert owner == "root/root"
        assert re.fullmatch(r"d(rwx)(r-x){2}|-rw-r--r--|-(rwx)(r-x){2}|lrwxrwxrwx", mode), line
        assert re.match(r"\./($|etc/($|jobd/)|usr/($|bin/|lib/($|jobd/|systemd/)|share/))", name), line
        assert "__pycache__" not in name
    control = said("dpkg-deb", "--field", package)
    assert f"Depends: python3, python{image.PYTHONS[SUITES[release_of(package)]]}, adduser" in control
    assert said("dpkg-deb", "--info", package, "conffiles") == "/etc/jobd/jobd.toml\n"


def test_what_is_told_of_it_is_true(package: Path, tmp_path: Path) -> None:
    """The pages and completions of the wheel, the units, and no path of the machine that it was made on."""
    subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    share = tmp_path / "usr" / "share"
    assert {path.name for path in (share / "man" / "man1").iterdir()} >= {"jobd.1.gz", "jobcli.1.gz", "jobpki.1.gz"}
    for place in ("bash-completion/completions/jobcli", "zsh/vendor-completions/_jobcli", "doc/jobd/copyright"):
        assert (share / place).is_file()
    unit = (tmp_path / "usr/lib/systemd/system/jobd.service").read_text()
    assert "ExecStart=/usr/bin/jobd --config /etc/jobd/jobd.toml\n" in unit
    assert "/usr/local" not in unit
    older = (tmp_path / "usr/lib/systemd/system/jobd.service.d/before-254.conf").exists()
    assert older == (release_of(package) == "12")
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert str(ROOT).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_strict(name: str) -> None:
    """sh understands them, and the first failure ends them."""
    path = ROOT / ".ci" / "debian" / name
    assert path.read_text().startswith("#!/bin/sh\nset -eu\n")
    subprocess.run(["sh", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


@pytest.mark.skipif(shutil.which("lintian") is None, reason="needs lintian")
def test_lintian_has_no_word_against_it(package: Path) -> None:
    """Beside what is said in .ci/debian/overrides, with its reasons."""
    command = ["lintian", "--allow-root", "--fail-on=error,warning", "--no-tag-display-limit", package]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- installed


class Debian:
    """One of that release, in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, status: int = 0) -> str:
        """What a command says in it."""
        whole = ["chroot", str(self.root), *command]
        done = subprocess.run(whole, check=False, capture_output=True, text=True, env={"PATH": PATH, "HOME": "/root"})
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def use(self, script: str) -> str:
        """What a script says in it, with processes of its own."""
        mounted = f'mount -t proc proc {self.root}/proc && exec chroot {self.root} sh -c "$1"'
        whole = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounted, "sh", script]
        done = subprocess.run(whole, check=False, capture_output=True, text=True, env={"PATH": PATH, "HOME": "/root"})
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, package: Path) -> str:
        shutil.copy(package, self.root / "tmp")
        return self.run("dpkg", "--install", f"/tmp/{package.name}")

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Mode and owners of all there is, but for what dpkg and adduser write anyway."""
        found = {}
        for place, directories, names in os.walk(self.root):
            for name in (*directories, *names):
                path = Path(place, name)
                inside = str(path.relative_to(self.root))
                if not inside.startswith((*LEFT_OUT, *LEFT_OUT_TOO, "proc", "dev", "run")) and not inside.endswith("-"):
                    status = path.lstat()
                    found[inside] = (status.st_mode, status.st_uid, status.st_gid)
        return found


@pytest.fixture(scope="module")
def debian(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """A copy of one in which nothing of ours is yet."""
    if shutil.which("debootstrap", path=PATH) is None:
        pytest.skip("needs debootstrap (.ci/machine installs it)")
    suite = SUITES[release_of(package)]
    kept = ROOT / "build" / "debian" / suite
    if not (kept / "debootstrap-done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        including = f"--include=adduser,python3,python{image.PYTHONS[suite]}"
        said("debootstrap", "--variant=minbase", including, suite, kept, image._mirror())
        (kept / "debootstrap-done").touch()
    root = tmp_path_factory.mktemp("debian") / suite
    subprocess.run(["cp", "--archive", kept, root], check=True)
    yield Debian(root)
    shutil.rmtree(root)


@needs_root
def test_it_is_installed_used_upgraded_removed_and_purged(package: Path, debian: Debian) -> None:
    """Each step in a Debian where nothing else of it was; at the end there is nothing of it but the users, and what
    the operator had put there."""
    before = debian.files()
    debian.install(package)
    assert debian.run("dpkg", "--verify", "jobd") == ""
    for program in ("jobd", "jobcli"):
        assert debian.run(program, "--version") == f"{program} {VERSION}\n"
    state, config = debian.root / "var" / "lib" / "jobd", debian.root / "etc" / "jobd" / "jobd.toml"
    accounts = {line.split(":")[0]: line.split(":") for line in (debian.root / "etc/passwd").read_text().splitlines()}
    owner = int(accounts["jobd"][2])
    assert (state.stat().st_uid, state.stat().st_mode & 0o777) == (owner, 0o700)
    assert {accounts[name][6] for name in ("jobd", "jobd-jobs")} == {"/usr/sbin/nologin"}

    set_up = SET_UP
    for there, here in HERE.items():
        set_up = set_up.replace(there, here)
    user, number, refused = debian.use(f"set -eu\n{set_up}{USED}").splitlines()[-3:]
    assert (user, number, refused) == ("jobd-jobs", accounts["jobd-jobs"][2], "refused")
    assert not (debian.root / "usr/lib/jobd/bin/__pycache__").exists()

    config.write_text(config.read_text() + "slots = 5\n")
    debian.install(package)
    assert config.read_text().endswith("slots = 5\n"), "what the operator has set"

    debian.run("dpkg", "--remove", "jobd")
    assert not (debian.root / "usr" / "lib" / "jobd").exists()
    assert (state / "jobs.sqlite3").exists()
    assert config.exists()

    with (state / "lock").open() as lock:  # as a launcher with jobs has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is left to it" in debian.run("dpkg", "--purge", "jobd")
    assert (state / "jobs.sqlite3").exists()
    assert not config.exists()

    debian.install(package)
    debian.run("dpkg", "--purge", "jobd")
    assert not state.exists()
    assert (debian.root / "etc" / "jobd" / "server.key").exists(), "not ours to delete"
    shutil.rmtree(debian.root / "etc" / "jobd")
    after = debian.files()
    assert {name: after[name] for name in after.keys() - before.keys()} == {}
    assert before == {name: after[name] for name in before}
