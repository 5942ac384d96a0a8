"""The named steps at which a test can have the server killed, and where each of them is in the code.

A step is a function of the product, and the product knows nothing of this. A test *arms* a point (a step, before or
after it), which is a file; the server of :mod:`tests.faults.killed_jobd` that passes it moves that file away, which
only one can do, and sends itself SIGKILL. So a point that was reached has killed once, and can be told from one that
never was.

Which steps there are is in :mod:`tests.faults.steps`.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobd.launcher import protocol
from jobd.launcher.link import LauncherLink
from tests.faults.steps import INSIDE, PORTS, STEPS

When = Literal["before", "after"]


@dataclass(frozen=True)
class Point:
    """A moment at which the server is killed.

    Attributes:
        passing: which time from when it is armed on, in one server.
    """

    step: str
    when: When
    passing: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.step}"


def both(*steps: str, passing: int = 1) -> list[Point]:
    """Before and after each of the steps."""
    return [Point(step, when, passing) for step in steps for when in ("before", "after")]  # type: ignore[arg-type] # they are


class Points:
    """The points that are armed and those that were reached, in a directory that the server sees as well."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "armed").mkdir(parents=True, exist_ok=True)
        (directory / "reached").mkdir(exist_ok=True)

    def arm(self, point: Point) -> None:
        """Have the next server that passes it killed, once."""
        (self.directory / "reached" / str(point)).unlink(missing_ok=True)
        self._arm(point, point.passing)

    def _arm(self, point: Point, passing: int) -> None:
        """At one stroke: whoever does this may be killed meanwhile, at another point."""
        making = self.directory / "armed" / f".{os.getpid()}.{point}"
        making.write_text(str(passing))
        making.rename(self.directory / "armed" / str(point))

    def reached(self, point: Point) -> bool:
        """A server was killed there since it was armed."""
        return (self.directory / "reached" / str(point)).exists()

    def disarm(self) -> None:
        """Have nothing killed any more."""
        for armed in (self.directory / "armed").iterdir():
            armed.unlink(missing_ok=True)

    # ---- in the server

    def install(self) -> None:
        """Have this process look at the points at each step."""
        for step in STEPS:
            if not step.startswith(("sent ", "heard ")):
                self._wrap(*_place(step), lambda *_, step=step: step)
        self._wrap(protocol, "send", lambda _, message, *rest: f"sent {message['op']}")
        self._wrap(LauncherLink, "_take", lambda _, message, *rest: f"heard {message['op']}")

    def _wrap(self, owner: Any, name: str, step_of: Callable[..., str]) -> None:
        function = inspect.getattr_static(owner, name)  # its own, or inherited

        @functools.wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            step = step_of(*args)
            self._pass(step, "before")
            result = await function(*args, **kwargs)
            self._pass(step, "after")
            return result

        @functools.wraps(function)
        def now(*args: Any, **kwargs: Any) -> Any:
            step = step_of(*args)
            self._pass(step, "before")
            result = function(*args, **kwargs)
            self._pass(step, "after")
            return result

        setattr(owner, name, later if inspect.iscoroutinefunction(function) else now)

    def _pass(self, step: str, when: When) -> None:
        point = Point(step, when)
        armed = self.directory / "armed" / str(point)
        try:
            passing = int(armed.read_text())
            if passing > 1:
                self._arm(point, passing - 1)
                return
            armed.rename(self.directory / "reached" / str(point))
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _place(step: str) -> tuple[Any, str]:
    """The class or module of the function that a step is, and its name."""
    room, *inner, name = step.split(".")
    for port, implementation in PORTS.items():
        if port.__name__ == room:
            return implementation, name
    owner: Any = next(module for module in INSIDE if module.__name__.endswith(f".{room}"))
    for each in inner:
        owner = getattr(owner, each)
    return owner, name
