"""What happens to the members of an etcd in the session ``chaos``: they are killed, stopped and cut off."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.errors import EtcdError
from tests.support.etcd import Cluster, Member
from tests.support.network import Network

HOSTS: Final = ("e1", "e2", "e3")
"""Where the members are, if there is a network."""


@dataclass
class EtcdFaults:
    """Of an etcd of three members.

    Attributes:
        faults: what was done, how often.
        kills: they may be killed.
        network: without one, they are not cut off.
    """

    rng: random.Random
    etcd: Cluster
    faults: Counter[str]
    kills: bool
    network: Network | None

    async def run(self) -> None:
        """The leader, any member, or two of them, until cancelled; then all are there again."""
        kinds = ["stopped", *(["killed"] if self.kills else []), *(["cut off"] if self.network else [])]
        while True:
            await trio.sleep(self.rng.uniform(1, 8))
            members = self.rng.sample(self.etcd.members, self.rng.choice((1, 1, 2)))
            leader = await self._leader()
            if self.rng.random() < 0.6 and leader not in members and leader:
                members[0] = leader
            kind = self.rng.choice(kinds)
            which = "leader" if leader in members else "follower"
            self.faults[f"etcd: {len(members)} {kind}, {which}"] += 1
            ways = [self._ways(member, kind) for member in members]
            with trio.CancelScope(shield=True):
                for begin, _ in ways:
                    await trio.to_thread.run_sync(begin)
                await trio.sleep(self.rng.uniform(0, 6))
                for _, end in ways:
                    await trio.to_thread.run_sync(end)

    def _ways(self, member: Member, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """How it begins, and how it ends."""
        if kind == "killed":
            return member.kill, member.start
        if kind == "stopped":
            return member.stop, member.go_on
        assert self.network is not None
        host = HOSTS[self.etcd.members.index(member)]
        return partial(self.network.cut, host), partial(self.network.heal, host)

    async def _leader(self) -> Member | None:
        for member in self.etcd.members:
            try:
                async with open_client(self.etcd.of([member.endpoint])) as client:
                    status = await client.status()
            except EtcdError:
                continue
            if status.leader == status.member:
                return member
        return None
