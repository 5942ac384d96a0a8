"""The disk of the machine: a Debian with systemd, this project installed in it, and its tests.

Made by root (the files have owners), with no mount and no loop device. The packages are those of the mirror that this
machine's apt is set up with; what comes from a package index is got by this Python's pip, as that is set up.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PYTHONS: Final = {"bookworm": "3.11", "trixie": "3.13"}
"""The releases that there can be a machine of, with their Python."""
PROGRAMS: Final = ("debootstrap", "mke2fs", "qemu-system-x86_64", "git")
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "linux-image-cloud-amd64"),
    *("python3", "python3-venv", "bubblewrap", "openssl", "procps", "util-linux"),
)
TESTED: Final = "/srv/jobd"
"""Where the project's files are in the machine."""
INSTALLED: Final = "/opt/jobd"
"""The virtual environment with the project, as an operator would install it, and what the tests need."""
USER: Final = "tester"
"""An ordinary user."""
ACCOUNTS: Final = (USER, "jobd", "jobs")
"""That user, and those of the service: the server's and the jobs'."""
NOT_NEEDED: Final = (
    # Nobody logs in, and nothing is to be fetched.
    *("getty.target", "timers.target", "systemd-networkd-wait-online.service", "systemd-logind.service"),
    # All the hardware that is used is there before; where all is emulated, to look for more takes minutes.
    *("systemd-udev-trigger.service", "systemd-binfmt.service", "e2scrub_reap.service", "modprobe@.service"),
)
"""Units of systemd that are not to be started."""
SIZE: Final = "3G"
TESTS_UNIT: Final = f"""\
[Unit]
Description=Tests of jobd
[Service]
WorkingDirectory={TESTED}
ExecStart={INSTALLED}/bin/python -m tests.machine.guest
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
ExecStopPost=/bin/systemctl --no-block --job-mode=replace-irreversibly start poweroff.target
[Install]
WantedBy=multi-user.target
"""


class MissingError(Exception):
    """This machine lacks what it takes."""


def what_is_missing() -> str:
    """What it takes to make the disk and to run a machine; "" if all is there."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if lacking:
        return f"{', '.join(lacking)} are not installed (.ci/machine installs them)"
    return "" if os.geteuid() == 0 else "it takes root, to make files of other users"


def make_disk(directory: Path, release: str) -> Path:
    """Make a disk in a directory. What an earlier one left there (a Debian) is used again.

    Raises:
        MissingError: no mirror of Debian is known here.
        subprocess.CalledProcessError: one of the programs failed.
    """
    root, disk = directory / f"root-{release}", directory / f"disk-{release}"
    if not (root / "debootstrap-done").exists():
        shutil.rmtree(root, ignore_errors=True)
        _say(f"a Debian {release} in {root}")
        packages = ",".join(PACKAGES)
        _run("debootstrap", "--variant=minbase", f"--include={packages}", release, root, _mirror(), quiet=True)
        (root / "debootstrap-done").touch()
    _say("the project in it")
    _furnish(root)
    _copy_project(root)
    _install(root, directory / f"wheels-{release}", release)
    _say(f"a disk of it: {disk}")
    disk.unlink(missing_ok=True)
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, disk, SIZE)
    return disk


def kernel(directory: Path, release: str) -> tuple[Path, Path]:
    """The kernel of that Debian, and its first file system."""
    boot = directory / f"root-{release}" / "boot"
    [kernel], [initrd] = boot.glob("vmlinuz-*"), boot.glob("initrd.img-*")
    return kernel, initrd


def _mirror() -> str:
    form = "$(LABEL) $(REPO_URI)"
    targets = _run("apt-get", "indextargets", "--format", form, "Created-By: Packages", quiet=True)
    for label, _, uri in (line.partition(" ") for line in targets.splitlines()):
        if label == "Debian":
            return uri
    raise MissingError("apt is set up with no mirror of Debian here")


def _furnish(root: Path) -> None:
    """What a machine needs beside its packages."""
    system = root / "etc" / "systemd" / "system"
    (system / "jobd-tests.service").write_text(TESTS_UNIT)
    (root / "etc" / "hostname").write_text("machine\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost machine\n")
    (root / "etc" / "fstab").write_text("/dev/vda / ext4 rw 0 1\n")
    (root / "etc" / "machine-id").write_text("")
    for name in ACCOUNTS:
        if f"\n{name}:" not in (root / "etc" / "passwd").read_text():
            _run("chroot", root, "useradd", "--create-home", name)
    for program in ("jobd", "jobcli", "jobpki"):
        link = root / "usr" / "local" / "bin" / program
        link.unlink(missing_ok=True)
        link.symlink_to(f"{INSTALLED}/bin/{program}")
    for unit in NOT_NEEDED:
        link = system / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    wanted = system / "multi-user.target.wants" / "jobd-tests.service"
    wanted.unlink(missing_ok=True)
    wanted.symlink_to("/etc/systemd/system/jobd-tests.service")


def _copy_project(root: Path) -> None:
    """The files that are the project's, as they are now."""
    copy = root / TESTED.removeprefix("/")
    shutil.rmtree(copy, ignore_errors=True)
    listed = _run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", quiet=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _install(root: Path, wheels: Path, release: str) -> None:
    """A virtual environment with the project and what its tests need; nothing is built in the machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels.mkdir(exist_ok=True)
    for old in wheels.glob("jobd-*"):
        old.unlink()
    _run(*pip, "wheel", "--no-deps", "-w", wheels, ROOT)
    # Not what this Python would need: the one in the machine may be another.
    kind = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHONS[release]}"]
    kind += [f"--platform={each}_x86_64" for each in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    _run(*pip, "download", "-d", wheels, *kind, *_requirements(project), quiet=True)
    inside = root / "tmp" / "wheels"
    shutil.copytree(wheels, inside, dirs_exist_ok=True)
    into = ["chroot", root]
    if not (root / INSTALLED.removeprefix("/")).exists():
        _run(*into, "python3", "-m", "venv", INSTALLED)
    named = ["jobd", *(re.split(r"[><=\[]", each)[0] for each in _requirements(project))]
    isolated = ["env", "-i", "PATH=/usr/sbin:/usr/bin", f"{INSTALLED}/bin/pip", "--isolated", "--quiet", "--no-input"]
    options = ["--no-index", "--find-links=/tmp/wheels", "--disable-pip-version-check"]
    _run(*into, *isolated, "install", *options, "--force-reinstall", "--no-deps", "jobd")
    _run(*into, *isolated, "install", *options, *named)
    _run(*into, f"{INSTALLED}/bin/python", "-m", "compileall", "-q", TESTED)
    shutil.rmtree(inside)


def _requirements(project: Mapping[str, Any]) -> Sequence[str]:
    return [*project["project"]["dependencies"], *project["dependency-groups"]["test"]]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _say(text: str) -> None:
    print(f"machine: {text}", flush=True)


def _run(*command: str | Path, quiet: bool = False) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        check=False,
        env={**os.environ, "PATH": _path()},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
    )
    if done.returncode:
        sys.stdout.write(done.stdout or "")
    done.check_returncode()
    return done.stdout or ""
