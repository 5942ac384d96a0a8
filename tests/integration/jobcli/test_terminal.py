"""``jobcli run -t`` and ``attach`` at a real terminal: what a person sees and types, also when the server is killed.

pexpect is the person: it makes a terminal, runs jobcli in it, types, and reads the screen.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pexpect
import pytest

from tests.support.daemon import JobdProgram, jobd_program, state_of, until_dead
from tests.support.jobcli_program import environment, jobcli
from tests.support.live_pki import LivePki
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(30)
PROMPT: Final = "ready> "
SHELL: Final = ["env", f"PS1={PROMPT}", "sh", "-i"]
DETACH: Final = "\x10\x11"


@pytest.fixture
def jobd(pki: TestPki, tmp_path: Path) -> Iterator[JobdProgram]:
    with jobd_program(pki, tmp_path / "state") as program:
        yield program


class Terminal:
    """A terminal with jobcli in it."""

    def __init__(self, jobd: JobdProgram, pki: TestPki, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        command, size = ["-m", "jobcli", *arguments], (rows, columns)
        self.child = pexpect.spawn(
            sys.executable, command, env=environment(jobd, pki), dimensions=size, timeout=SECONDS, echo=True
        )
        self.before = termios.tcgetattr(self.child.child_fd)

    def type(self, text: str) -> None:
        self.child.send(text)

    def sees(self, text: str) -> None:
        self.child.expect_exact(text)

    def sees_id(self) -> str:
        """The id in the line about being detached."""
        self.child.expect(r"detached from job ([0-9a-f]{8}), which goes on; 'jobcli attach ([0-9a-f]{8})'")
        return str(self.child.match[1].decode())

    def is_left(self) -> None:
        """By jobcli, however that ends; by then it is as it was."""
        self.child.expect(pexpect.EOF)
        assert self.modes == self.before
        self.child.close()

    def ends(self) -> int:
        """The exit code."""
        self.is_left()
        assert self.child.signalstatus is None, self.child.before
        return int(self.child.exitstatus)

    @property
    def modes(self) -> list[object]:
        return termios.tcgetattr(self.child.child_fd)

    @property
    def is_raw(self) -> bool:
        return not self.modes[3] & termios.ICANON  # type: ignore[operator] # the local modes are a number


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def terminal(jobd: JobdProgram, pki: TestPki, *arguments: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    made = Terminal(jobd, pki, *arguments, rows=rows, columns=columns)
    try:
        yield made
    finally:
        made.child.close(force=True)


def test_a_session(jobd: JobdProgram, pki: TestPki) -> None:
    """A shell: its terminal has our size, also when that changes; Ctrl-C is for what runs in it; its code is ours."""
    with terminal(jobd, pki, "run", "-it", "--", *SHELL) as screen:
        screen.sees(PROMPT)
        assert screen.is_raw
        screen.type("stty size; echo $TERM; tty\r")
        screen.sees("24 80\r\nvt100\r\n/dev/pts/")
        screen.sees(PROMPT)
        screen.child.setwinsize(50, 132)
        screen.type("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.01; done; echo re''sized\r")
        screen.sees("resized")
        screen.sees(PROMPT)
        screen.type("echo be''gun; sleep 1000\r")
        screen.sees("begun")
        screen.type("\x03")
        screen.sees(PROMPT)
        screen.child.kill(signal.SIGTSTP)  # of somebody else: what is typed is the job's
        until(lambda: state_of(screen.child.pid) == "T")
        assert screen.modes == screen.before
        screen.child.kill(signal.SIGCONT)
        until(lambda: screen.is_raw)
        screen.type("exit 7\r")
        assert screen.ends() == 7


def test_a_terminal_that_does_not_say_its_size(jobd: JobdProgram, pki: TestPki) -> None:
    """A serial line's is of 0 rows and 0 columns: the job's is of 24 and 80."""
    with terminal(jobd, pki, "run", "-t", "--", "stty", "size", rows=0, columns=0) as screen:
        screen.sees("24 80")
        assert screen.ends() == 0


def test_detached_and_attached_again(jobd: JobdProgram, pki: TestPki) -> None:
    """The keys are not for the job; the one before them, when it was not them, is. The screen is drawn again."""
    script = "trap 'echo drawn' WINCH; stty -echo; echo begun; while :; do read x && echo \"got $x\" | cat -v; done"
    with terminal(jobd, pki, "run", "-t", "--", "sh", "-c", script) as screen:
        screen.sees("begun")
        screen.type("a\x10b\r")
        screen.sees("got a^Pb")
        screen.type("last" + "\r" + DETACH)  # what comes before the keys comes to the job
        job = screen.sees_id()
        assert screen.ends() == 0
    with terminal(jobd, pki, "attach", "-n", "1", job) as screen:
        screen.sees("got last")
        screen.type("again\r")
        screen.sees("got again")
        with terminal(jobd, pki, "attach", job) as other:
            other.sees("alice is attached")
            assert other.ends() == 125
        with terminal(jobd, pki, "attach", "--take-over", "--detach-keys", "ctrl-]", job) as other:
            other.type("mine\x10\x11\r")  # ^Q means something to the job's terminal (IXON)
            other.sees("got mine^P")
            screen.sees("alice has taken the attachment over")
            assert screen.ends() == 125
            other.type("\x1d")
            assert other.sees_id() == job
            assert other.ends() == 0
    assert jobcli(jobd, pki, "stop", "--grace", "0", job).returncode == 0


def test_a_server_that_is_killed_meanwhile(jobd: JobdProgram, pki: TestPki) -> None:
    """The session goes on as if nothing had been; so does what was typed into it."""
    with terminal(jobd, pki, "run", "-t", "--", *SHELL) as screen:
        screen.sees(PROMPT)
        for number in range(3):
            killed = jobd.server_pid()
            jobd.kill_server()
            until_dead(killed)
            assert jobcli(jobd, pki, "list").returncode == 0  # by now, the session has noticed too
            screen.type(f"echo $(({number} + 1000))\r")
            screen.sees(f"{number + 1000}\r\n")
            screen.sees(PROMPT)
        screen.type("exit 3\r")
        assert screen.ends() == 3


def test_a_signal_restores_the_terminal(jobd: JobdProgram, pki: TestPki) -> None:
    """And leaves the job alone, with the code that a shell gives for it."""
    job = jobcli(jobd, pki, "start", "-i", "--", "cat").stdout.decode().strip()
    command = ["run", "-t", "--detach-keys", "", "--", "sh", "-c", "echo begun; exec sleep 1000"]
    for signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM):
        with terminal(jobd, pki, *command) as screen:
            screen.sees("begun")
            screen.child.kill(signum)
            if signum in (signal.SIGTERM, signal.SIGINT):  # these go to the job, as those of any 'run' do
                assert screen.ends() == 128 + signum
            else:
                job_with_terminal = screen.sees_id()
                assert screen.ends() == 128 + signum
                assert jobcli(jobd, pki, "stop", job_with_terminal).returncode == 0
        with terminal(jobd, pki, "attach", job) as screen:
            screen.type("typed\r")
            screen.sees("typed\r\ntyped\r\n")
            assert not screen.is_raw
            screen.child.kill(signum)
            assert job.startswith(screen.sees_id())
            assert screen.ends() == 128 + signum
    assert jobcli(jobd, pki, "stop", job).returncode == 0


def test_signals_at_once_restore_the_terminal(jobd: JobdProgram, pki: TestPki) -> None:
    """Whichever of them it is that ends us."""
    with terminal(jobd, pki, "run", "-t", "--", "sh", "-c", "echo begun; exec sleep 1000") as screen:
        screen.sees("begun")
        screen.type(DETACH)
        job = screen.sees_id()
        assert screen.ends() == 0
    for signals in (
        (signal.SIGHUP, signal.SIGQUIT),
        (signal.SIGTERM, signal.SIGHUP),
        (signal.SIGUSR2, signal.SIGTERM),
    ):
        with terminal(jobd, pki, "attach", job) as screen:
            until(lambda screen=screen: screen.is_raw)  # type: ignore[misc] # what mypy knows of lambdas is little
            for signum in signals:
                screen.child.kill(signum)
            screen.is_left()
    assert jobcli(jobd, pki, "stop", "--grace", "0", job).returncode == 0


def test_nobody_who_reads_what_it_says_restores_the_terminal(jobd: JobdProgram, pki: TestPki) -> None:
    """Stdout is a pipe whose reader has gone: the terminal on stdin is as it was, and the job goes on."""
    script = "while sleep 0.05; do echo said; done"
    command = shlex.join([sys.executable, "-m", "jobcli", "run", "-t", "--", "sh", "-c", script])
    child = pexpect.spawn("sh", ["-c", f"{command} | head -n 1"], env=environment(jobd, pki), timeout=SECONDS)
    before = termios.tcgetattr(child.child_fd)
    child.expect_exact("said")
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == before
    child.close()
    [job] = map(json.loads, jobcli(jobd, pki, "list", "--json").stdout.splitlines())
    assert job["state"] == "running"
    assert jobcli(jobd, pki, "stop", job["id"]).returncode == 0


def test_a_lost_server_restores_the_terminal(pki: TestPki, tmp_path: Path) -> None:
    """As long as it is tried to reach it again the terminal is raw; then it is as before."""
    with (
        jobd_program(pki, tmp_path / "state") as jobd,
        terminal(jobd, pki, "--retry-for", "0.5", "run", "-t", "--", *SHELL) as screen,
    ):
        screen.sees(PROMPT)
        jobd.crash()
        screen.sees("jobcli: ")
        assert screen.ends() == 125


def test_a_revoked_certificate_restores_the_terminal(tmp_path: Path) -> None:
    """The session ends at once, with the reason; the job goes on."""
    ours = LivePki.grow(tmp_path / "pki")
    with (
        jobd_program(ours, tmp_path / "state", "--crl", str(ours.crl), "--grace", "0.2") as jobd,
        terminal(jobd, ours, "run", "-t", "--", *SHELL) as screen,
    ):
        screen.sees(PROMPT)
        ours.revoke("alice")
        screen.sees("jobcli: ")
        screen.sees("revoked")
        assert screen.ends() == 125


def test_a_server_that_does_not_come_back_can_be_left(pki: TestPki, tmp_path: Path) -> None:
    """The detach keys are heard though nothing can be sent."""
    with (
        jobd_program(pki, tmp_path / "state") as jobd,
        terminal(jobd, pki, "--retry-for", "1000", "run", "-t", "--", *SHELL) as screen,
    ):
        screen.sees(PROMPT)
        jobd.crash()
        assert jobcli(jobd, pki, "--retry-for", "0", "list").returncode == 125  # by now, the session has noticed too
        screen.type("x")
        screen.type("y" + DETACH)
        screen.sees_id()
        assert screen.ends() == 0


def test_typed_lines_for_a_job_with_a_pipe(jobd: JobdProgram, pki: TestPki) -> None:
    """The terminal stays as it is: lines, and the end of the file at Ctrl-D."""
    with terminal(jobd, pki, "run", "-i", "--", "cat", "-n") as screen:
        screen.type("one\rtwo\r")
        screen.sees("     2\ttwo")
        screen.type("\x04")
        assert screen.ends() == 0


def test_a_terminal_is_asked_for_where_it_is_needed(jobd: JobdProgram, pki: TestPki) -> None:
    """Without one on stdin, nothing is started, and nobody is attached."""
    refused = jobcli(jobd, pki, "run", "-t", "--", "true")
    assert (refused.returncode, refused.stderr) == (
        125,
        b"jobcli: -t needs a terminal on stdin; to feed the job a pipe or a file, give -i\n",
    )
    assert jobcli(jobd, pki, "list", "--json").stdout == b""
    with terminal(jobd, pki, "run", "-t", "--", *SHELL) as screen:
        screen.sees(PROMPT)
        screen.type(DETACH)
        job = screen.sees_id()
        assert screen.ends() == 0
    refused = jobcli(jobd, pki, "attach", job)
    assert refused.returncode == 125
    assert refused.stderr.decode() == f"jobcli: job {job} has a terminal: attaching to it needs one on stdin\n"
    assert jobcli(jobd, pki, "stop", "--grace", "0", job).returncode == 0
