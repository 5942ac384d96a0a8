"""What can happen next in the world of a pool: everything that anybody may do, and everything that may go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jobd.pools.etcd import membership
from jobd.pools.etcd.records import Member, Phase, Session
from jobd.pools.etcd.rejoin import Todo
from jobd.pools.etcd.steps import Found, Intent, Verdict
from jobd.pools.etcd.transaction import Delete, KeyValue, Txn
from tests.properties.pool.rules import KNOWN, LEASE, NOTHING, Rules, ending_of, order_of
from tests.properties.pool.world import (
    JOBS,
    KEYS,
    WORKERS,
    BrokenRuleError,
    Local,
    Plan,
    Worker,
    World,
    checked,
    claim_of,
    perform,
    tidy,
)


@dataclass(frozen=True)
class Move:
    """One thing that may happen.

    Attributes:
        fault: it need not happen for the rest to go on.
    """

    label: str
    after: World
    fault: bool = False


@dataclass
class Moves:
    """All moves, under some rules.

    Attributes:
        at_once: what is sent at the moment in which it was read what it rests on; for fewer worlds.
    """

    rules: Rules = field(default_factory=Rules)
    at_once: frozenset[str] = frozenset()

    def of(self, world: World) -> Iterator[Move]:
        """Everything that may happen next."""
        for move in self._of(world):
            after = tidy(move.after)
            yield Move(move.label, after, move.fault)

    def _of(self, world: World) -> Iterator[Move]:
        for number, plan in enumerate(world.brokers):
            if plan is None:
                yield from self._broker_plans(world, number)
            else:
                yield from self._broker_sends(world, number, plan)
            if number + 1 < len(world.brokers) and world.brokers[number] == world.brokers[number + 1]:
                break  # the next one can do nothing that this one cannot
        for worker in world.workers:
            yield from self._session(world, worker)
            for number, local in enumerate(worker.jobs):
                yield from self._process(world, worker, number, local)
                if worker.plan is None:
                    yield from self._look(world, worker, number, local)
            if worker.plan:
                yield from self._worker_sends(world, worker, worker.plan)
            yield from self._accidents(world, worker)
        for each in range(len(world.late)):
            rest = (*world.late[:each], *world.late[each + 1 :])
            _, after = perform(world._replace(late=rest), world.late[each].txn)
            yield Move("what was late arrives", after, fault=True)
        yield from self._people(world)

    # ---- people

    def _people(self, world: World) -> Iterator[Move]:
        for number in range(len(world.runs)):
            if world.budget.stops and ("accepted", number) in world.told and ("stop", number) not in world.told:
                yield Move(
                    "a client wants to stop", world._replace(budget=world.spent("stops")).tell("stop", number), True
                )
        if world.budget.drains:
            for worker in WORKERS:
                txn = membership.drain(KEYS, world.kvs[KEYS.member(worker)], "o", 1)
                _, after = perform(world._replace(budget=world.spent("drains")), txn)
                yield Move(f"{worker} is drained", after, fault=True)
        if world.budget.undrains:
            for worker in WORKERS:
                if KEYS.drain(worker) in world.kvs:
                    undrained = world._replace(budget=world.spent("undrains"))
                    _, after = perform(undrained, membership.undrain(KEYS, worker))
                    yield Move(f"{worker} is undrained", after, fault=True)

    # ---- brokers

    def _broker_plans(self, world: World, broker: int) -> Iterator[Move]:
        for number in range(len(world.runs)):
            for kind, txn in self._wanted(world, number):
                plan = Plan(kind, number, checked(txn))
                if kind in self.at_once:
                    yield from self._broker_sends(world, broker, plan)
                else:
                    yield Move(f"broker {broker} wants to {kind}", world.with_broker(broker, plan), kind == "forget")

    def _wanted(self, world: World, number: int) -> Iterator[tuple[str, Txn]]:
        job, name = world.job(number), JOBS[number]
        if job is None:
            yield "submit", self.rules.submit(KEYS, name, order_of(world, number), "h", b"private")
            return
        if job.ended:
            return
        phase, session = job.state.phase, world.kvs.get(KEYS.session(job.state.worker or WORKERS[0]))
        if phase == Phase.PENDING:
            for worker in WORKERS[:1] if _alike(world) else WORKERS:
                up = world.kvs.get(KEYS.session(worker))
                if up and KEYS.drain(worker) not in world.kvs:
                    yield "place", self.rules.place(KEYS, job, world.kvs[KEYS.queued(name)], up, f"uid-{worker}")
        elif session is None and not job.state.unreachable:
            yield "call gone", self.rules.gone(KEYS, job, 1)
        elif phase == Phase.ASSIGNED and KEYS.drain(job.state.worker) in world.kvs:
            yield "take back", self.rules.give_back(KEYS, job)
        if ("stop", number) in world.told and phase != Phase.CLAIMED:
            yield "stop", self.rules.stop(KEYS, job, ending_of(world, number, "stopped"))
        if world.budget.forgets and phase == Phase.CLAIMED and session is None:
            yield "forget", self.rules.forget(KEYS, job, ending_of(world, number, "lost"))

    def _broker_sends(self, world: World, broker: int, plan: Plan) -> Iterator[Move]:
        idle = world.with_broker(broker, None)
        outcome, after = perform(idle, plan.txn)
        if plan.kind == "forget":
            if outcome.held:
                after = after.tell("forgotten", plan.job)._replace(budget=after.spent("forgets"))
        elif plan.kind == "submit":
            after = after.tell("accepted", plan.job)
        elif plan.kind == "stop" and outcome.held:
            after = after.tell("stopped before it ran", plan.job)
        yield Move(f"broker {broker}: {plan.kind}", after)
        if world.budget.doubts and outcome.held:
            doubt = idle._replace(late=(*world.late, plan), budget=world.spent("doubts"))
            if plan.kind == "forget":
                doubt = doubt.tell("forgotten", plan.job)._replace(budget=doubt.spent("forgets"))
            yield Move(f"broker {broker}: {plan.kind}, and dies or is not told", doubt, fault=True)

    # ---- workers

    def _session(self, world: World, worker: Worker) -> Iterator[Move]:
        """A worker without a session of its own gets one. It notices when the one that it had is gone, sometime."""
        up = world.kvs.get(KEYS.session(worker.name))
        if worker.up is not None and up is not None and worker.up.created == up.created:
            return
        session = Session(uid=f"uid-{worker.name}", instance=f"i{worker.made}", address="a:1", slots=1)
        member = Member(uid=f"uid-{worker.name}", address="a:1")
        was = world.kvs[KEYS.member(worker.name)]
        txn = membership.enter(KEYS, worker.name, member, session, LEASE, was=was, up=up)
        assert txn
        _, after = perform(world, txn)
        now = after.kvs.get(KEYS.session(worker.name))
        made = worker._replace(up=now, made=worker.made + 1)
        yield Move(f"{worker.name} enters" if now else f"{worker.name} ends its old session", after.with_worker(made))

    def _process(self, world: World, worker: Worker, number: int, local: Local) -> Iterator[Move]:
        if local.state == "cleared":
            runs = list(world.runs)
            runs[number] += 1
            if runs[number] > 1 + world.budget.retries:
                raise BrokenRuleError("a job was started twice")
            if ("stopped before it ran", number) in world.told:
                raise BrokenRuleError("a job that was stopped was started")
            after = _with_local(world._replace(runs=tuple(runs)), worker, number, local._replace(state="runs"))
            yield Move(f"{worker.name} starts the job", after)
        elif local.state == "runs":
            after = _with_local(world, worker, number, local._replace(state="ended"))
            yield Move("the job ends", after.tell("ended by itself", number))

    def _look(self, world: World, worker: Worker, number: int, local: Local) -> Iterator[Move]:
        """A worker reads what etcd has of a job, and decides."""
        job = world.job(number)
        if job is None:
            return
        name, attempt = JOBS[number], local.attempt if local.state else job.state.attempt
        at = world.kvs.get(KEYS.claim(name, attempt))
        assigned = world.kvs.get(KEYS.assigned(worker.name, name))
        intent = Intent(local.intent, worker.name, f"uid-{worker.name}")
        what = self.rules.todo(job, claim_of(at) if at else None, intent, KNOWN[local.state], attempt)
        plan = None
        match what:
            case Todo.CLAIM if worker.up and assigned:
                yield from self._claims(world, worker, number, local, job, assigned)
            case Todo.START if local.state != "cleared":
                cleared = local._replace(state="cleared")
                yield Move(f"{worker.name} finds its claim", _with_local(world, worker, number, cleared))
            case Todo.TELL if job.state.unreachable:
                plan = Plan("tell", number, self.rules.report(KEYS, job, at, None), job.at)
            case Todo.REPORT:
                plan = Plan("report", number, self.rules.report(KEYS, job, at, ending_of(world, number, "ok")), job.at)
            case Todo.LOSE:
                lost = ending_of(world, number, "lost")
                plan = Plan("lose", number, self.rules.report(KEYS, job, at, lost), job.at, lost=True)
            case Todo.SETTLE if assigned:
                plan = Plan("settle", number, self.rules.settle(KEYS, worker.name, job), job.at)
            case Todo.DROP if local.state:
                yield Move(f"{worker.name} drops its intent", _with_local(world, worker, number, NOTHING))
            case Todo.END:
                ended = local._replace(state="ended")
                yield Move(f"{worker.name} ends what was given up", _with_local(world, worker, number, ended))
        if plan and plan.kind in self.at_once:
            yield from self._worker_sends(world, worker, plan)
        elif plan:
            checked(plan.txn)
            yield Move(f"{worker.name} wants to {plan.kind}", world.with_worker(worker._replace(plan=plan)))

    def _claims(
        self, world: World, worker: Worker, number: int, local: Local, job: Found, assigned: KeyValue
    ) -> Iterator[Move]:
        if not local.state and self.rules.intent_first:
            made = worker._replace(made=worker.made + 1)
            intended = Local("intended", f"<{worker.name}-{worker.made}>", job.state.attempt)
            yield Move(f"{worker.name} writes its intent down", _with_local(world, made, number, intended))
            return
        intent = Intent(local.intent or f"<{worker.name}-{worker.made}>", worker.name, f"uid-{worker.name}")
        txn = self.rules.claim(KEYS, job, assigned, worker.up, intent, last=job.state.attempt >= world.budget.retries)
        plan = Plan("claim", number, checked(txn), assigned)
        yield Move(f"{worker.name} wants to claim", world.with_worker(worker._replace(plan=plan)))

    def _worker_sends(self, world: World, worker: Worker, plan: Plan) -> Iterator[Move]:
        idle = worker._replace(plan=None)
        outcome, after = perform(world, plan.txn)
        local = worker.jobs[plan.job]
        label = f"{worker.name}: {plan.kind}"
        if plan.kind == "claim":
            intent = Intent(local.intent or f"<{worker.name}-{worker.made}>", worker.name, f"uid-{worker.name}")
            verdict = self.rules.claimed(outcome, plan.read, intent)
            if verdict is Verdict.DONE:
                local = Local("cleared", intent.id, local.attempt)
            elif verdict is Verdict.OVER:
                local = NOTHING
            yield Move(label, _with_local(after, idle, plan.job, local))
        else:
            if plan.lost and outcome.held and local.state == "uncertain":
                local = NOTHING  # recorded, and nothing more to do
            yield Move(label, _with_local(after, idle, plan.job, local))
        if world.budget.doubts and outcome.held:
            doubt = world._replace(late=(*world.late, plan), budget=world.spent("doubts"))
            yield Move(f"{label}, and is not told", doubt.with_worker(idle), fault=True)

    # ---- what may go wrong with a worker

    def _accidents(self, world: World, worker: Worker) -> Iterator[Move]:
        up = world.kvs.get(KEYS.session(worker.name))
        if world.budget.expiries and up:
            _, after = perform(world._replace(budget=world.spent("expiries")), Txn((), (Delete(up.key),)))
            yield Move(f"the lease of {worker.name} ends", after, fault=True)
        late = (*world.late, worker.plan) if worker.plan else world.late
        if world.budget.crashes and (worker.plan or worker.up):
            jobs = tuple(_forgetting(each, {"cleared": "intended"}) for each in worker.jobs)
            after = world._replace(late=late, budget=world.spent("crashes"))
            yield Move(
                f"the server of {worker.name} dies",
                after.with_worker(worker._replace(up=None, plan=None, jobs=jobs)),
                True,
            )
        if world.budget.reboots and any(each.state for each in worker.jobs):
            lost = dict.fromkeys(("cleared", "intended", "runs"), "uncertain")
            jobs = tuple(_forgetting(each, lost) for each in worker.jobs)
            after = world._replace(late=late, budget=world.spent("reboots"))
            for number in range(len(jobs)):
                after = after.tell("rebooted", number)
            yield Move(
                f"{worker.name} is rebooted", after.with_worker(worker._replace(up=None, plan=None, jobs=jobs)), True
            )


def _alike(world: World) -> bool:
    """It does not matter which of the workers comes first."""
    new = all(worker.made == 0 and worker.plan is None and worker.up for worker in world.workers)
    busy = world.late or any(plan and plan.kind == "place" for plan in world.brokers)
    return (
        new
        and not busy
        and all(KEYS.session(each) in world.kvs and KEYS.drain(each) not in world.kvs for each in WORKERS)
    )


def _forgetting(local: Local, becomes: dict[str, str]) -> Local:
    return local._replace(state=becomes.get(local.state, local.state))


def _with_local(world: World, worker: Worker, number: int, local: Local) -> World:
    jobs = (*worker.jobs[:number], local, *worker.jobs[number + 1 :])
    return world.with_worker(worker._replace(jobs=jobs))
