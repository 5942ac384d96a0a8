"""From a terminal into a pipe: every byte, until the job and all who have its terminal have gone."""

from __future__ import annotations

import errno
import os
import random
import termios
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio

from jobd.launcher.relay import Relay, _has_room, writing_end
from jobd.launcher.terminal import open_terminal
from tests.support.patience import patient


@dataclass
class Ends:
    """A terminal, and the pipe that it is carried into."""

    near: int
    far: int
    out: int

    def close(self) -> None:
        for fd in (self.near, self.far, self.out):
            if fd >= 0:
                os.close(fd)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.far, data[:1000]) :]

    def close_far(self) -> None:
        os.close(self.far)
        self.far = -1

    async def read(self) -> bytes:
        """What is in the pipe; empty at its end."""
        while True:
            try:
                return os.read(self.out, 65536)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.out)


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = open_terminal(24, 80)
    modes = termios.tcgetattr(far)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(far, termios.TCSANOW, modes)
    out, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(writing)  # as the launcher does
    made = Ends(near, far, out)
    yield made
    made.close()


@pytest.mark.parametrize("splices", [True, False])
async def test_every_byte_is_carried_and_then_the_pipe_ends(ends: Ends, splices: bool) -> None:
    """Much more than terminal and pipe hold; also on a kernel that cannot splice from a terminal."""
    data = random.Random(1).randbytes(1_000_000)
    relay, ended = Relay(ends.near, writing_end(ends.out)), trio.Event()
    relay._splices = splices
    got = b""
    with trio.fail_after(patient(30)):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await trio.to_thread.run_sync(ends.write, data)
                ends.close_far()
                ended.set()

            nursery.start_soon(write)
            nursery.start_soon(relay.carry, ended)
            while _has_room(relay._pipe):  # until nothing more fits
                await trio.sleep(0.001)
            while piece := await ends.read():
                got += piece
    assert got == data


async def test_what_was_carried_stays_when_the_carrier_is_gone(ends: Ends) -> None:
    """As after a kill: the next one carries on."""
    ended = trio.Event()
    with trio.fail_after(patient(10)):
        for number in range(3):
            relay = Relay(ends.near, writing_end(ends.out))
            ends.write(b"%d" % number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay.carry, ended)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            relay.close()
        assert await ends.read() == b"012"


async def test_a_job_may_let_go_of_its_terminal_for_a_while(ends: Ends) -> None:
    """As long as it runs, that is not the end."""
    name, ended = os.ttyname(ends.far), trio.Event()
    relay = Relay(ends.near, writing_end(ends.out))
    with trio.fail_after(patient(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.carry, ended)
            ends.write(b"1")
            ends.close_far()
            assert await ends.read() == b"1"
            ends.far = os.open(name, os.O_RDWR | os.O_NOCTTY)
            ends.write(b"2")
            assert await ends.read() == b"2"
            ends.close_far()
            ended.set()
            assert await ends.read() == b""


async def test_what_is_wrong_with_a_terminal_is_raised(ends: Ends) -> None:
    """Only that nobody has it open is expected."""
    relay = Relay(ends.near, writing_end(ends.out))
    os.close(relay._pipe)
    relay._pipe = os.open("/dev/full", os.O_WRONLY)
    relay._splices = False
    ends.write(b"x")
    with pytest.raises(OSError, match="No space") as raised:
        await relay.carry(trio.Event())
    assert raised.value.errno == errno.ENOSPC
    relay.close()
