"""What a machine does as a worker of the pool: it takes the jobs that it is given, and says how they end.

For each job that is assigned to it, or that its own store knows as the pool's, there is a task. That looks at what etcd
and the store say of the job, does what :func:`jobd.pools.etcd.rejoin.todo` says, and looks again, until nothing is left
to do. So a job that was just assigned, and one that is found after a crash or a partition, go the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, NamedTuple

import structlog
import trio

from api.retry import Retry
from jobd.broker.admission import Policy, admitted
from jobd.broker.broker import Broker
from jobd.broker.ports import Store as JobStore
from jobd.broker.ports import Worker
from jobd.pools.etcd import ends, steps
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.doors import Doors
from jobd.pools.etcd.ends import Ending
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.intents import intended, intent_of, local, lost
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.orders import end_facts, job_from
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import Claim, Order
from jobd.pools.etcd.rejoin import Todo, todo
from jobd.pools.etcd.restored import Restored
from jobd.pools.etcd.steps import Found, Intent, Verdict
from jobd.pools.etcd.transaction import KeyValue
from jobd.worker.errors import InvalidSpecError, StoreError, WorkerError
from jobd.worker.job import Job, JobCell, Reason
from jobd.worker.lifecycle import Event, State
from jobd.worker.policy import Caller
from jobd.worker.supervisor import Stop

log = structlog.get_logger(__name__)

LOOK_AGAIN: Final = 5.0
"""Seconds after which a job is looked at anew that the pool does not know, or has forgotten."""
SOON: Final = 0.5
"""Seconds after which what only others can change is looked at anew: a pool that is frozen, a session."""


class Look(NamedTuple):
    """What there is of a job, here and in etcd, and what is to be done."""

    mine: Job | None
    found: Found | None
    claim: KeyValue | None
    intent: Intent
    todo: Todo


class Agent:
    """Made for one worker; :meth:`run` is its life."""

    def __init__(
        self,
        client: Client,
        mirror: Mirror,
        broker: Broker,
        store: JobStore,
        seal: Seal,
        *,
        name: str,
        uid: str,
        epoch: Callable[[], int | None],
        policy: Policy,
        workers: Collection[Worker],
    ) -> None:
        """
        Args:
            epoch: that of the session, if there is one now.
        """
        self._client = client
        self._mirror = mirror
        self._broker = broker
        self._store = store
        self._seal = seal
        self._name = name
        self._uid = uid
        self._epoch = epoch
        self._policy = policy
        self._workers = list(workers)
        self._doors = Doors(client, mirror.at, name, self._own_jobs)
        self._restored = Restored(mirror, self._own, self._put_back)
        self._seen: set[str] = set()
        self._cells: dict[str, JobCell] = {}

    async def run(self) -> None:
        """Take up what there is, and what comes, for ever."""
        await self._mirror.whole()
        at = self._mirror.at
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._doors.run)
            for entry in self._broker.registry.live:
                if intent_of(entry.cell.job):
                    self._begin(nursery, entry.cell.job.id)
            mine = at.assignments(self._name)
            while True:
                news = self._mirror.news
                for each in list(self._mirror.assignments.below(mine)):
                    self._begin(nursery, at.job_of(each.key))
                for job_id in await self._restored.see_to():
                    self._begin(nursery, job_id)
                await news.wait()

    def _begin(self, nursery: trio.Nursery, job_id: str) -> None:
        if job_id not in self._seen:
            self._seen.add(job_id)
            nursery.start_soon(self._see_to, job_id)

    async def _see_to(self, job_id: str) -> None:
        """Do what there is to do about a job, until there is nothing more."""
        retry, assigned = Retry(float("inf")), self._assigned(job_id)
        try:
            while True:
                try:
                    if not await self._step(job_id):
                        if assigned == (now := self._assigned(job_id)) or now is None:
                            return
                        assigned = now  # it was given to us anew meanwhile, and who says so found us at it
                    retry.reset()
                except (EtcdError, StoreError) as exc:
                    log.info("a job of the pool cannot be seen to now", job=job_id, error=str(exc))
                    await retry.pause()
                except PoolDataError as exc:
                    log.error("a job of the pool cannot be taken", job=job_id, error=str(exc))
                    await trio.sleep(LOOK_AGAIN)
                except Exception:  # one job, and what others wrote of it, ends neither the other jobs nor this server
                    log.exception("a job of the pool cannot be seen to", job=job_id)
                    await trio.sleep(LOOK_AGAIN)
        finally:
            self._seen.discard(job_id)
            self._cells.pop(job_id, None)

    def _assigned(self, job_id: str) -> int | None:
        """By which writing it is assigned to us, as far as we have heard."""
        at = self._mirror.assignments.keys.get(self._mirror.at.assigned(self._name, job_id))
        return at.created if at else None

    # ---- one look, and one step

    async def _step(self, job_id: str) -> bool:
        """Look, and do; False when nothing is left to do."""
        at, look = self._mirror.at, await self._look(job_id)
        found, claim_at, intent, mine = look.found, look.claim, look.intent, look.mine
        log.debug("a job of the pool is looked at", job=job_id, todo=look.todo.name)
        match look.todo:
            case Todo.CLAIM:
                assert found is not None
                return await self._claim(found, mine)
            case Todo.START:
                assert mine is not None
                await self._start(mine)
                return True
            case Todo.TELL:
                assert found is not None
                assert claim_at is not None
                await self._tell(found, claim_at)
                return True
            case Todo.REPORT | Todo.LOSE:
                assert found is not None
                assert claim_at is not None
                return await self._report(found, claim_at, mine)
            case Todo.SETTLE:
                if found is not None:
                    await self._client.txn(ends.settle(at, self._name, found))
                return False
            case Todo.END:
                await self._end(job_id)
                return True
            case Todo.DROP:
                return await self._drop(job_id, mine)
            case Todo.REASSERT:
                return await self._reassert(found, intent, mine)
            case Todo.KEEP:
                log.warning("a job runs that the pool does not know of; it goes on", job=job_id)
                await trio.sleep(LOOK_AGAIN)
                return True
            case Todo.NOTHING:
                return False

    async def _look(self, job_id: str) -> Look:
        at = self._mirror.at
        mine = await self._own(job_id)
        state = await self._client.get(at.state(job_id))
        found = Found.of(at, state) if state else None
        known = intent_of(mine)
        attempt, intent_id = known or (found.state.attempt if found else 0, "")
        claim_at = await self._client.get(at.claim(job_id, attempt))
        claim = decode(Claim, claim_at.key, claim_at.value) if claim_at else None
        intent = Intent(intent_id, self._name, self._uid)
        return Look(mine, found, claim_at, intent, todo(found, claim, intent, local(mine), attempt))

    async def _own(self, job_id: str) -> Job | None:
        """What this machine knows of a job. One that has ended may have left the store before etcd could hear of it."""
        entry = self._broker.registry.known(job_id)
        if entry is not None:
            self._cells[job_id] = entry.cell
            return entry.cell.job
        cell = self._cells.get(job_id)
        if cell and cell.job.state.terminal:
            return cell.job
        found = await self._store.starting_with(job_id)
        return found[0] if found else None

    async def _claim(self, found: Found, mine: Job | None) -> bool:
        at = self._mirror.at
        epoch = self._epoch()
        up = await self._client.get(at.session(self._name))
        assigned = await self._client.get(at.assigned(self._name, found.id))
        if assigned is None:
            await trio.sleep(0.1)  # if it is still ours when it is looked at again, somebody else has been at work
            return mine is not None
        if epoch is None or up is None or up.created != epoch:
            await trio.sleep(0.1)  # the session is being made anew
            return True
        if mine is None:
            order = await self._order(found.id)
            if order is None:
                return False
            if not self._has_room():  # two brokers have given the last slot away, or our own jobs have it
                await self._doors.full()
                await self._client.txn(ends.give_back(at, found))
                return True
            try:
                mine = await self._intend(found, order)
            except StoreError as exc:  # a full disk, say: others have room
                log.warning("a job of the pool is given back", job=found.id, error=str(exc))
                await self._doors.close()
                await self._client.txn(ends.give_back(at, found))
                return True
        if mine is None:
            await trio.sleep(SOON)
            return True
        known = intent_of(mine)
        assert known is not None
        intent = Intent(known[1], self._name, self._uid)
        txn = steps.claim(at, found, assigned, up, intent, last=not await self._may_run_again(found.id))
        outcome = await self._client.txn(txn)
        if steps.claimed(outcome, assigned, intent) is Verdict.AGAIN:
            if await self._client.get(at.drain(self._name)) is not None:
                await self._client.txn(ends.give_back(at, found))
            frozen = await self._client.get(at.frozen) is not None
            await trio.sleep(SOON if frozen else 0.05)
        return True

    def _has_room(self) -> bool:
        taken = sum(not entry.cell.job.state.terminal for entry in self._broker.registry.live)
        return taken < sum(worker.slots for worker in self._workers)

    def _own_jobs(self) -> int:
        """Jobs that live here and are not assigned to us: brokers do not know that they take up slots. One that is
        assigned again, as after a restore, counts twice until it is next looked."""
        at, assigned = self._mirror.at, self._mirror.assignments.keys
        jobs = (entry.cell.job for entry in self._broker.registry.live)
        return sum(not job.state.terminal and at.assigned(self._name, job.id) not in assigned for job in jobs)

    async def _order(self, job_id: str) -> Order | None:
        at = self._mirror.at.spec(job_id)
        found = await self._client.get(at)
        return decode(Order, at, found.value) if found else None

    async def _may_run_again(self, job_id: str) -> bool:
        order = await self._order(job_id)
        return bool(order and order.retry_lost)

    async def _intend(self, found: Found, order: Order) -> Job | None:
        """Write down durably that this machine will run the job, if it gets the claim; None when something of it is
        gone (it was stopped a moment ago, or somebody else has been at work)."""
        at = self._mirror.at
        job = job_from(at, found, order)
        spec = job.spec
        if order.private:
            private = await self._client.get(at.private(found.id))
            if private is None:  # without its secrets and its stdin it would be another job
                return None
            spec = self._seal.join(spec, private.key, private.value)
        mine = intended(found, spec, order)
        await self._broker.held.hold(mine)
        return mine

    async def _start(self, mine: Job) -> None:
        """It is claimed: let it run, as this machine's own rules allow."""
        order = await self._order(mine.id)
        caller = Caller(mine.started_by, order.roles if order else ())
        try:
            spec = await admitted(mine.spec, caller, self._policy, self._workers, pooled=True)
        except (InvalidSpecError, WorkerError) as exc:
            refused = replace(mine, reason="", message="").moved(Event.ASSIGNED, worker=self._name)
            refused = refused.moved(
                Event.LAUNCH_FAILED, ended_at=time.time_ns(), reason=Reason.LAUNCH_REFUSED, message=str(exc)
            )
            await self._broker.held.end(refused)
            return
        self._broker.held.release(mine.id, spec)

    async def _tell(self, found: Found, claim: KeyValue) -> None:
        """It runs here. Where brokers look for it nobody would find it while there is no session, or under a name that
        this machine had before: then it stays unreachable, or they and we would contradict each other for ever."""
        if found.state.unreachable and found.state.worker == self._name:
            if self._epoch() is None:
                await trio.sleep(SOON)
                return
            await self._client.txn(ends.report(self._mirror.at, found, claim, None))
        await self._until_ended(found)

    async def _until_ended(self, found: Found) -> None:
        """Wait until the job has ended here, or more is said of it in etcd."""
        entry, key = self._broker.registry.known(found.id), found.at.key
        known = self._mirror.jobs.keys.get(key)
        if entry is None or (known and known.modified > found.at.modified):
            return
        async with trio.open_nursery() as nursery:

            async def changed() -> None:
                await self._mirror.jobs.changed(key)
                nursery.cancel_scope.cancel()

            nursery.start_soon(changed)
            await entry.cell.ended()
            nursery.cancel_scope.cancel()

    async def _report(self, found: Found, claim: KeyValue, mine: Job | None) -> bool:
        at = self._mirror.at
        order = await self._order(found.id)
        if order is None:
            return False
        if mine is None or not mine.state.terminal:
            mine = lost(job_from(at, found, order))
        ending = Ending(
            mine.ended_at or time.time_ns(),
            end_facts(replace(mine, worker=self._name)),
            order.principal,
            order.request_id,
            lost=mine.state is State.LOST,
            retries=order.retry_lost,
        )
        outcome = await self._client.txn(ends.report(at, found, claim, ending))
        return ends.reported(at, outcome, found) is Verdict.AGAIN

    async def _end(self, job_id: str) -> None:
        """The pool has given the job up: what is left of it here ends."""
        log.warning("a job that the pool has given up is ended", job=job_id)
        try:
            await self._broker.stop(job_id, Stop(by="the pool"))
        except WorkerError as exc:
            log.error("a job that the pool has given up does not end", job=job_id, error=str(exc))
            await trio.sleep(LOOK_AGAIN)

    async def _drop(self, job_id: str, mine: Job | None) -> bool:
        """Let go of what was here of a job. Of a run that was lost, record and output stay until they are in the way of
        the next one, or are so old that all such records go."""
        if mine is None or not mine.state.terminal:
            await self._broker.held.discard(job_id)
            return False
        if self._assigned(job_id) is None:
            return False
        await self._broker.delete(job_id)
        self._cells.pop(job_id, None)
        return True

    async def _put_back(self, job_id: str) -> bool:
        look = await self._look(job_id)
        return look.todo is Todo.REASSERT and await self._reassert(look.found, look.intent, look.mine)

    async def _reassert(self, found: Found | None, intent: Intent, mine: Job | None) -> bool:
        at = self._mirror.at
        frozen, up = await self._client.get(at.frozen), await self._client.get(at.session(self._name))
        if frozen is not None and up is not None and found is not None:
            if (await self._client.txn(ends.reassert(at, found, frozen, up, intent))).held:
                log.warning("a claim that etcd had forgotten is put back", job=found.id)
            return True
        if found is not None and self._assigned(found.id) is not None:
            return await self._claim(found, mine)
        if mine is not None and mine.state.terminal:
            return False
        log.warning("a job runs whose claim the pool does not know; it goes on", job=found.id if found else "")
        await trio.sleep(LOOK_AGAIN)
        return True
