"""What the machine has: its kernel, its clock, and room for what the settings allow."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

from jobd.check.finding import Findings, good, weak, wrong
from jobd.config import Config

OF_A_JOB: Final = 6
"""Descriptors that a running job may take in one process: its pipes, its process, its log and its index."""
OF_ITSELF: Final = 128
PIPE: Final = 256 * 1024
"""What each of a job's two pipes is given (pipe(7))."""
UNSYNCHRONISED: Final = 5
"""adjtimex(2): TIME_ERROR."""
TIMEX: Final = 512
"""Bytes: more than a struct timex has."""
HIDDEN: Final = ("hidepid=1", "hidepid=2", "hidepid=4", "hidepid=invisible", "hidepid=noaccess", "hidepid=ptraceable")


def kernel() -> Findings:
    """Is there what jobd cannot do without?"""
    release = os.uname().release
    try:
        os.close(os.pidfd_open(os.getpid()))
        os.close(os.memfd_create("jobd-check", os.MFD_CLOEXEC))
    except OSError as exc:
        yield wrong(
            "kernel", f"Linux {release} has no pidfd_open(2) or memfd_create(2) ({exc.strerror}): 5.3 is needed"
        )
    else:
        yield good("kernel", f"Linux {release}")


def proc(config: Config) -> Findings:
    """Can the server see the processes of others?"""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == "/proc" and set(HIDDEN) & set(after.split()[-1].split(",")):
            says = "/proc hides other users' processes (hidepid)"
            yield wrong("proc", f"{says}: a server with --user has to see jobs") if config.user else weak("proc", says)


def clock() -> Findings:
    """Is it kept right? Certificates and lists are judged by it."""
    if clock_state() == UNSYNCHRONISED:
        yield weak("clock", "nobody keeps it right (adjtimex(2)): certificates and revocation lists are judged by it")
    else:
        yield good("clock", "it is kept right")


def clock_state() -> int:
    """What adjtimex(2) says; it changes nothing.

    Raises:
        OSError: it may not be asked, as in some containers.
    """
    state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(TIMEX))
    if state < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "adjtimex(2)")
    return state


def descriptors(config: Config) -> Findings:
    """Are there as many as the settings may need at a time?"""
    needed = OF_ITSELF + config.connections + OF_A_JOB * config.workers * config.slots
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield weak(
            "descriptors",
            f"--connections and --slots may take {needed}, and there are {hard}: raise LimitNOFILE= (or ulimit -Hn), "
            "or what is beyond is refused",
        )
    else:
        yield good("descriptors", f"{needed} may be needed, and there are {hard if hard >= 0 else 'more'}")


def pipes(config: Config) -> Findings:
    """Who is not root has so much memory for pipes; jobs beyond that have small ones, and wait more often."""
    if os.geteuid() == 0:
        return
    try:
        pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    except (OSError, ValueError):
        return
    jobs = pages * resource.getpagesize() // (2 * PIPE)
    if pages and jobs < config.workers * config.slots:
        yield weak(
            "pipes", f"there is memory for the pipes of {jobs} jobs (sysctl fs.pipe-user-pages-soft): others are slower"
        )
