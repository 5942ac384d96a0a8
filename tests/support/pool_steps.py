"""A pool in an etcd that is in memory, and somebody who takes the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hypothesis import HealthCheck, settings

from jobd.pools.etcd import membership, steps
from jobd.pools.etcd.ends import Ending
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Member, Order, Session
from jobd.pools.etcd.steps import Found, Intent, Verdict
from jobd.pools.etcd.transaction import Delete, KeyValue, Outcome, Put, Txn, absent
from jobd.worker.facts import spec_facts
from jobd.worker.job import JobSpec
from tests.support.memory_etcd import MemoryEtcd

JOB = "0f9e8d7c-0000-4000-8000-000000000001"
LEASE = 7
CHECKED: Final = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""How inputs are made up: as many as it takes, on however busy a machine."""


@dataclass
class Pool:
    """Steps, each taken at once, with what is there."""

    etcd: MemoryEtcd = field(default_factory=MemoryEtcd)
    keys: Keys = field(default_factory=lambda: Keys("p"))
    job: str = JOB

    async def take(self, txn: Txn | None) -> Outcome:
        assert txn is not None
        return await self.etcd.txn(txn)

    async def at(self, key: bytes) -> KeyValue:
        found = await self.etcd.get(key)
        assert found is not None
        return found

    async def has(self, key: bytes) -> bool:
        return await self.etcd.get(key) is not None

    async def found(self) -> Found:
        return Found.of(self.keys, await self.at(self.keys.state(self.job)))

    def intent(self, worker: str = "w1", id_: str = "n1") -> Intent:
        return Intent(id_, worker, f"uid-{worker}")

    async def enter(self, worker: str = "w1", instance: str = "i1", lease: int = LEASE) -> None:
        """A worker is there with a new session."""
        member = Member(uid=f"uid-{worker}", address="h:1")
        session = Session(uid=member.uid, instance=instance, address="h:1", slots=2)
        self.etcd.grant(lease)
        for _ in range(3):
            was, up = await self.etcd.get(self.keys.member(worker)), await self.etcd.get(self.keys.session(worker))
            txn = membership.enter(self.keys, worker, member, session, lease, was=was, up=up)
            if txn is None:
                return
            await self.take(txn)
        raise AssertionError

    async def submit(self, *, request_id: str = "r", hash_: str = "h", job: str = "") -> steps.Submitted:
        order = Order(spec=spec_facts(JobSpec(("x",))), principal="ann", created_at=5, request_id=request_id)
        txn = steps.submit(self.keys, job or self.job, order, hash_, b"private")
        return steps.submitted(await self.take(txn), job or self.job, order, hash_)

    async def place_txn(self, worker: str = "w1") -> Txn:
        queued, session = await self.at(self.keys.queued(self.job)), await self.at(self.keys.session(worker))
        return steps.place(self.keys, await self.found(), queued, session, f"uid-{worker}")

    async def place(self, worker: str = "w1") -> Verdict:
        return steps.done(await self.take(await self.place_txn(worker)))

    async def claim_txn(self, worker: str = "w1", id_: str = "n1") -> tuple[Txn, KeyValue]:
        assigned, session = (
            await self.at(self.keys.assigned(worker, self.job)),
            await self.at(self.keys.session(worker)),
        )
        return steps.claim(self.keys, await self.found(), assigned, session, self.intent(worker, id_)), assigned

    async def claim(self, worker: str = "w1", id_: str = "n1") -> Verdict:
        txn, assigned = await self.claim_txn(worker, id_)
        return steps.claimed(await self.take(txn), assigned, self.intent(worker, id_))

    async def running(self) -> None:
        """A job is claimed by w1."""
        await self.enter()
        await self.submit()
        await self.place()
        assert await self.claim() is Verdict.DONE


def freeze(keys: Keys) -> Txn:
    """Nothing is placed or claimed: etcd was restored, and claims may be missing."""
    return Txn((absent(keys.frozen),), (Put(keys.frozen, b"{}"),))


def thaw(keys: Keys) -> Txn:
    """All machines have said what they have."""
    return Txn((), (Delete(keys.frozen),))


def ending(state: str = "succeeded", *, lost: bool = False, retries: int = 0) -> Ending:
    return Ending(9, {"state": state}, "ann", request_id="r", lost=lost, retries=retries)
