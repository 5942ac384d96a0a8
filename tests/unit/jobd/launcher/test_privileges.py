"""What a job is kept from gaining, and what is given up for it: in real children."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from jobd.launcher import children, sandboxed
from jobd.launcher.environment import program_of
from jobd.launcher.local import LocalLauncher
from jobd.launcher.program import Program
from jobd.limits.isolation import Bubblewrap
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.worker.containment import Limits
from jobd.worker.identity import own
from jobd.worker.isolation import Isolation, Means
from jobd.worker.ports import Source
from jobd.worker.worker import Worker
from tests.support.jobs import collect, shell

STATUS = "grep -E 'NoNewPrivs|Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status"


def parsed(text: bytes) -> dict[str, str]:
    return dict(line.split(":\t") for line in text.decode().splitlines())


def our_own() -> dict[str, str]:
    return parsed(
        b"\n".join(x for x in Path("/proc/self/status").read_bytes().splitlines() if x[:3] in (b"NoN", b"Cap"))
    )


@pytest.mark.parametrize("number", range(3))
async def test_without_a_launcher_it_is_the_same(tmp_path: Path, number: int) -> None:
    """As far as it needs no sandbox. What is given up is given up in a thread that ends: this process keeps it."""
    isolation = (Isolation(), Isolation(drop_capabilities=True), Isolation(allow_new_privileges=True))[number]
    before = our_own()
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk(), Means()), LogStore(tmp_path))
        job = await worker.start(shell(f"{STATUS}; ionice", isolation=isolation, limits=Limits(io_class=1)))
        *lines, io_class = (await collect(await worker.stream(job.id)))[Source.STDOUT].splitlines()
        nursery.cancel_scope.cancel()
    status = parsed(b"\n".join(lines))
    assert io_class == b"idle"
    assert status["NoNewPrivs"] == ("0" if isolation.allow_new_privileges else "1")
    assert (status["CapEff"] == before["CapEff"]) or isolation.drop_capabilities
    if isolation.drop_capabilities:
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert our_own() == before


def test_a_program_that_gains_privileges_to_make_sandboxes_is_not_kept_from_it() -> None:
    """It keeps what it executes from that itself; everything else is."""
    spec = shell("true", isolation=Isolation(no_network=True))
    container = Walk().create("id", Limits())
    anybody = replace(own(), uid=65534)
    told = [
        program_of("id", spec, container, Means(Bubblewrap("bwrap", gains=gains)), who)["no_new_privileges"]
        for who, gains in ((replace(own(), uid=0), True), (anybody, True), (anybody, False))
    ]
    assert told == [True, False, True]  # root needs no such gain
    means = Means(Bubblewrap("bwrap", gains=True))
    assert program_of("id", shell("true"), container, means, anybody)["no_new_privileges"]


# ---- the way into a sandbox: what executes the rest here is no sandbox, but goes the same way


def program(*sandbox: str) -> Program:
    environment = {"PATH": os.environ["PATH"]}
    return Program(
        ["sh", "-c", "exit 3"], environment, "/", [], {}, 0, 0o022, None, sandbox=list(sandbox), outside=environment
    )


def heard(child: children.Child) -> children.Failure | None:
    """What a child says next."""
    return child.hear()


def reaped(child: children.Child) -> int:
    _, status = os.waitpid(child.pid, 0)
    os.close(child.report)
    child.close()
    return status


def test_the_process_inside_is_known_before_it_becomes_the_job() -> None:
    """It waits for an answer; then nothing more is said, and it is the job."""
    child = children.spawn(program("/usr/bin/env"))
    assert heard(child) is None
    assert child.main >= 0
    assert heard(child) is children.EXECUTED
    assert os.waitstatus_to_exitcode(reaped(child)) == 3


def test_one_that_never_gets_inside_is_no_job() -> None:
    """Whatever the program that was to make the sandbox ends with; what it said is told."""
    child = children.spawn(program("/bin/sh", "-c", "echo no luck >&2; exit 0"))
    assert heard(child) == children.Failure("isolate", 0, "no luck")
    reaped(child)
    child = children.spawn(program("/nowhere/bwrap"))
    assert heard(child) == children.Failure("isolate", 2)
    reaped(child)


def test_what_the_maker_of_a_sandbox_says_to_a_terminal_is_told_too() -> None:
    """That is its stderr then."""
    refused = replace(program("/bin/sh", "-c", "echo no luck >&2"), stdin="terminal", size=(24, 80))
    child = children.spawn(refused)
    assert heard(child) == children.Failure("isolate", 0, "no luck")
    reaped(child)
    child = children.spawn(replace(refused, sandbox=["/bin/true"]))
    assert heard(child) == children.Failure("isolate", 0)
    reaped(child)


def test_capabilities_are_dropped_where_hardly_a_descriptor_is_left() -> None:
    """What that needs is loaded before the limit holds."""
    limits = {resource.RLIMIT_NOFILE: (4, 4)}
    child = children.spawn(replace(program("/usr/bin/env"), limits=limits, drop_capabilities=True))
    assert heard(child) is None
    assert heard(child) is children.EXECUTED
    assert os.waitstatus_to_exitcode(reaped(child)) == 3


def test_one_whose_launcher_is_gone_before_it_answers_does_not_become_the_job() -> None:
    """Nobody would hear of its end."""
    child = children.spawn(program("/usr/bin/env"))
    said, pid = sandboxed.receive(child.report)
    assert (said, pid) == (b"inside", child.pid)
    assert os.waitstatus_to_exitcode(reaped_unheard(child)) == 127


def reaped_unheard(child: children.Child) -> int:
    os.close(child.report)
    _, status = os.waitpid(child.pid, 0)
    child.close()
    return status


def test_one_that_is_killed_before_it_takes_the_answer_has_ended() -> None:
    """It is a job that SIGKILL ended, not an error of the launcher."""
    child = children.spawn(program("/usr/bin/env"))
    select.select([child.report], [], [])  # it has said where it is, and waits
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    assert heard(child) is None
    os.kill(child.pid, signal.SIGKILL)
    assert heard(child) is children.EXECUTED
    assert os.waitstatus_to_exitcode(reaped(child)) == -signal.SIGKILL


def test_without_a_descriptor_for_it_the_job_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process inside ends when it hears that nobody answers."""
    child = children.spawn(program("/usr/bin/env"))

    def none_left(pid: int) -> int:
        raise OSError(24, os.strerror(24))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", none_left)
        assert heard(child) == children.Failure("fork", 24)
    assert os.waitstatus_to_exitcode(reaped_unheard(child)) == 127


def test_what_is_around_a_job_is_deaf_and_the_job_is_not() -> None:
    """Every signal that can be ignored, but SIGCHLD, is, by what makes the sandbox; the job has them all as usual."""
    command = 'cat /proc/$$/status >&2; exec "$0" "$@"'
    child = children.spawn(program("/bin/sh", "-c", command, "/usr/bin/env"))
    assert heard(child) is None
    ignored = int(parsed(os.read(child.err, 10_000))["SigIgn"], 16)
    assert heard(child) is children.EXECUTED
    reaped(child)
    everything = {each.value for each in signal.Signals} - {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP}
    assert {number for number in everything if not ignored >> (number - 1) & 1} == set()
    assert not ignored >> (signal.SIGCHLD - 1) & 1


def test_an_end_that_somebody_else_has_seen_is_known_or_said_not_to_be() -> None:
    """The kernel's word, not a guess: of a process that lives, and of what is no process, nothing is known."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        assert sandboxed.exit_status(pidfd) is None
    finally:
        os.close(pidfd)
    with socket.socket() as sock:
        assert sandboxed.exit_status(sock.fileno()) is None
