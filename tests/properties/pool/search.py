"""Every world that can follow from one, up to a budget of faults: explicit-state search, breadth first.

What must never happen is looked for at every step. What must be in the end is looked for where nobody has anything left
to do; and from every world such an end is reached without another fault.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.properties.pool.moves import Moves
from tests.properties.pool.world import JOBS, KEYS, BrokenRuleError, World, shape


@dataclass
class Searched:
    """What a search has found.

    Attributes:
        worlds: how many different ones.
        steps: how many moves were looked at.
        depth: of the longest way.
        ends: worlds in which nobody has anything left to do.
        wrong: what must not be, and the way to it; None when there is nothing.
    """

    worlds: int
    steps: int
    depth: int
    ends: int
    wrong: str | None = None


def search(beginning: World, moves: Moves, *, most: int = 1_000_000) -> Searched:
    """Look at every world, until something is wrong. Raises OverflowError when there are more than ``most``."""
    steps, ends, depth = 0, 0, 0
    numbers: dict[object, int] = {shape(beginning): 0}
    came: list[tuple[int, str]] = [(-1, "")]
    back: list[list[int]] = [[]]
    depths = [0]
    good: list[int] = []
    todo: deque[tuple[int, World]] = deque([(0, beginning)])

    def wrong(number: int, why: str, last: str = "") -> Searched:
        way = [last] if last else []
        while number > 0:
            number, label = came[number]
            way.append(label)
        return Searched(len(came), steps, depth, ends, "\n  ".join([why, *reversed(way)]))

    while todo:
        number, world = todo.popleft()
        depth, active = depths[number], False
        try:
            following = list(moves.of(world))
        except BrokenRuleError as exc:
            return wrong(number, str(exc))
        for move in following:
            steps += 1
            key = shape(move.after)
            there = numbers.get(key)
            if there is None:
                there = numbers[key] = len(came)
                if there > most:
                    raise OverflowError(f"there are more than {most} worlds")
                came.append((number, move.label))
                depths.append(depths[number] + 1)
                back.append([])
                todo.append((there, move.after))
            if not move.fault:
                active = active or there != number
                back[there].append(number)
        if not active:
            ends += 1
            if why := not_right(world):
                return wrong(number, why)
            good.append(number)
    stuck = _unreached(good, back)
    if stuck is not None:
        return wrong(stuck, "nobody ever gets to an end")
    return Searched(len(came), steps, depth, ends)


def _unreached(good: list[int], back: list[list[int]]) -> int | None:
    reached, todo = set(good), list(good)
    while todo:
        for number in back[todo.pop()]:
            if number not in reached:
                reached.add(number)
                todo.append(number)
    return next((number for number in range(len(back)) if number not in reached), None)


def not_right(world: World) -> str | None:
    """In what etcd differs from what has really happened, now that nobody has anything left to do."""
    for number, runs in enumerate(world.runs):
        job, name = world.job(number), JOBS[number]
        if job is None:
            return "a job was never accepted"
        if not job.ended:
            drained = all(KEYS.drain(worker.name) in world.kvs for worker in world.workers)
            if job.state.phase == "pending" and drained:
                continue
            return f"a job is {job.state.phase} for ever"
        state, told = job.state.job["state"], {what for what, of in world.told if of == number}
        if state == "stopped" and (runs or "stop" not in told):
            return "a job is stopped that ran, or that nobody wanted to stop"
        if state == "ok" and "ended by itself" not in told:
            return "a job has an end that nobody saw"
        if state == "lost" and not told & {"rebooted", "forgotten"}:
            return "a job is lost, and nothing has happened that could lose it"
        left = [KEYS.queued(name), KEYS.private(name)]
        if "forgotten" not in told:
            left += [KEYS.assigned(worker.name, name) for worker in world.workers]
        if any(key in world.kvs for key in left):
            return "a job has ended, and there is something left of it"
        if any(worker.jobs[number].state not in ("", "ended") for worker in world.workers):
            return "a job has ended, and a worker is not done with it"
    return None
