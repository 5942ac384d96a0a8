"""Sandboxes by bubblewrap (bwrap(1)), and whether this machine lets it make them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobd.worker.identity import Identity
from jobd.worker.isolation import CANNOT, NOT_ALLOWED, SANDBOXED, Isolation, Means

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 # what is to be hidden
KEPT: Final = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "net_bind_service"),
    *("net_raw", "sys_chroot", "audit_write", "setfcap"),
)
"""The capabilities of a sandboxed job of root: those that containers have by default, less CAP_MKNOD. With others (to
mount, to trace, to make devices) it could undo what it is in."""
PATIENCE: Final = 20.0
"""Seconds that a trial may take. One that takes longer costs every job its sandbox; 5 are too few on a slow machine."""


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A :class:`jobd.worker.isolation.Sandbox`.

    Attributes:
        path: of the program.
        temporary: the directories for temporary files that there are.
    """

    path: str
    gains: bool = False
    temporary: Sequence[str] = TEMPORARY

    def command(self, isolation: Isolation, uid: int) -> list[str]:
        """The command, for this user, to which is added what is to be executed in such a sandbox."""
        words = [self.path]
        # All of the machine as it is, and over it what is asked for. A /dev of its own where nothing is to be written:
        # through the device of a disk, root could.
        words += ["--ro-bind", "/", "/", "--dev", "/dev"] if isolation.read_only_root else ["--dev-bind", "/", "/"]
        if isolation.private_tmp:
            for directory in self.temporary:
                words += ["--perms", "1777", "--tmpfs", directory]
        if isolation.no_network:
            words += ["--unshare-net"]
        if isolation.pid_namespace:
            words += ["--unshare-pid", "--proc", "/proc"]
            words += ["--remount-ro", "/proc"] if isolation.read_only_root else []
        if uid == 0:  # root's capabilities are its own, unless they are taken
            words += ["--cap-drop", "ALL"]
            words += [word for name in KEPT for word in ("--cap-add", f"CAP_{name.upper()}")]
        return [*words, "--"]


def detect_isolation(*, allow_new_privileges: bool, who: Identity | None = None) -> Means:
    """What can be had here; sandboxes are tried out. Takes a moment.

    Args:
        allow_new_privileges: a job may ask for that.
        who: the user that jobs run as, if it is not this process's own: it may be let less.
    """
    path = shutil.which("bwrap", path=PATH)
    missing = {} if allow_new_privileges else {"allow_new_privileges": NOT_ALLOWED}
    if path is None:
        return Means(missing=missing).without_sandbox("bubblewrap (bwrap) is not installed")
    gains = bool(Path(path).stat().st_mode & stat.S_ISUID)
    there = [each for each in TEMPORARY if Path(each).is_dir() and not Path(each).is_symlink()]
    sandbox = Bubblewrap(path, gains, there)
    weaknesses = []
    together = try_out(sandbox, Isolation(**dict.fromkeys(SANDBOXED, True)), who)
    if together:
        tried = {name: try_out(sandbox, Isolation(**{name: True}), who) for name in SANDBOXED}
        missing |= {name: f"{CANNOT}: {why}" for name, why in tried.items() if why}
        weaknesses = [f"{name} {missing[name]}" for name, why in tried.items() if why]
        weaknesses = weaknesses or [f"all of {', '.join(SANDBOXED)} together {CANNOT}: {together}"]
    if set(SANDBOXED) - set(missing) and not _kernel_tells_ends(os.uname().release):
        weaknesses.append("a sandboxed job that signal N ends is told as exited with code 128+N (before Linux 6.15)")
    return Means(sandbox, missing, weaknesses)


def try_out(sandbox: Bubblewrap, isolation: Isolation, who: Identity | None = None) -> str:
    """Make such a sandbox, and execute the interpreter in it, as every job there does first; "" or what is wrong."""
    uid = who.uid if who else os.geteuid()
    whom: dict[str, Any] = {"user": who.uid, "group": who.gid, "extra_groups": who.groups} if who else {}
    command = [*sandbox.command(isolation, uid), os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", ""]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": PATH},
            timeout=PATIENCE,
            check=False,
            **whom,
        )
    except subprocess.TimeoutExpired:
        return f"a trial was not over after {PATIENCE:g} s"
    except OSError as exc:
        return exc.strerror or "it cannot be executed"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1][:200] if said else f"a trial ended with {done.returncode}"


def _kernel_tells_ends(release: str) -> bool:
    """It tells how a process ended that somebody else has reaped (``PIDFD_GET_INFO``)."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and (int(version[1]), int(version[2])) >= (6, 15)
