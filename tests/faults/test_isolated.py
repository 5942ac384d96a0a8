"""What keeps a job from the machine does so, and costs nothing of what holds for every job: with a real jobd.

The sandboxes are bubblewrap's, where this machine lets it make them; else those tests are skipped by name.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from api.client import JobClient
from api.errors import InvalidArgumentError
from api.messages import IoClass, Isolation, Job, JobState, Limits, OutputSource, Verdict
from jobd.limits.isolation import detect_isolation
from tests.support.daemon import ROOT as CODE
from tests.support.daemon import JobdProgram, jobd_program, running_daemon
from tests.support.jobs import processes_with
from tests.support.pki import TestPki

SECONDS = 60
ROOT = os.geteuid() == 0
MEANS = detect_isolation(allow_new_privileges=False)
WHOLE = Isolation(private_tmp=True, read_only_root=True, no_network=True, pid_namespace=True)
ALL_FLAGS = ("private_tmp", "read_only_root", "no_network", "pid_namespace")
needs_sandbox = pytest.mark.skipif(
    not set(ALL_FLAGS) <= set(MEANS.available), reason="needs bubblewrap (bwrap), and to be let make sandboxes with it"
)


@asynccontextmanager
async def running(
    pki: TestPki, directory: Path, *flags: str, kind: str = "auto"
) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd, and a writer."""
    with jobd_program(pki, directory / "state", "--containment", kind, *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=20) as client:
            yield jobd, client


async def outcome(client: JobClient, job: Job, source: int = OutputSource.UNSPECIFIED) -> tuple[str, Verdict]:
    """What a job wrote, and how it ended."""
    assert job.state != JobState.START_FAILED, job.message
    async with client.stream(job.id, source=OutputSource(source)) as output:
        text = b"".join([chunk.data async for chunk in output]).decode()
    assert output.verdict is not None
    return text, output.verdict


async def told(client: JobClient, script: str, isolation: Isolation | None = None, **fields: object) -> str:
    """What a script writes on its stdout."""
    job = await client.start(["sh", "-c", script], isolation=isolation, **fields)  # type: ignore[arg-type] # JobClient.start's
    return (await outcome(client, job, OutputSource.STDOUT))[0]


def status_of(text: str) -> dict[str, str]:
    """Lines of /proc/self/status."""
    return dict(line.split(":\t") for line in text.splitlines())


STATUS = "grep -E 'NoNewPrivs|Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status"
NOTHING = "0" * 16


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that is not hidden by a private /tmp, for everybody."""
    base = "/var/lib" if ROOT else Path.home()
    with TemporaryDirectory(dir=base, prefix="jobd-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


# ---- without a sandbox


async def test_a_job_gains_no_privileges_unless_it_may(pki: TestPki, tmp_path: Path) -> None:
    """By default it cannot; whoever asks may where the configuration says so, and only there."""
    asked = Isolation(allow_new_privileges=True)
    async with running(pki, tmp_path / "a") as (_, client):
        assert status_of(await told(client, STATUS))["NoNewPrivs"] == "1"
        with pytest.raises(InvalidArgumentError, match="allow-new-privileges") as caught:
            await client.start(["true"], isolation=asked)
        assert [each.field for each in caught.value.violations] == ["spec.isolation.allow_new_privileges"]
        assert [job.spec.argv[0] async for job in client.list()] == ["sh"]
    async with running(pki, tmp_path / "b", "--allow-new-privileges") as (_, client):
        assert status_of(await told(client, STATUS))["NoNewPrivs"] == "1"
        assert status_of(await told(client, STATUS, asked))["NoNewPrivs"] == "0"
        [worker] = (await client.workers()).workers
        assert "allow_new_privileges" in worker.isolation


@pytest.mark.skipif(not ROOT, reason="needs root: it makes a set-user-ID program, and becomes another user")
async def test_a_set_user_id_program_gives_nothing(pki: TestPki, tmp_path: Path, outside: Path) -> None:
    """The same program, run by the same ordinary user: with privileges allowed it is root, else it is not."""
    program = outside / "id"
    shutil.copy(shutil.which("id") or "", program)
    program.chmod(0o4755)
    script = f"import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv('{program}', ['id', '-u'])"
    async with running(pki, tmp_path, "--allow-new-privileges") as (_, client):
        command = ["/usr/bin/env", "python3", "-c", script]
        path = {"PATH": os.environ["PATH"]}
        plain, _ = await outcome(client, await client.start(command, env=path))
        allowed = Isolation(allow_new_privileges=True)
        gained, _ = await outcome(client, await client.start(command, env=path, isolation=allowed))
    assert (plain, gained) == ("65534\n", "0\n")


async def test_capabilities_are_dropped_on_request(pki: TestPki, tmp_path: Path) -> None:
    """All five sets are empty. A job of root has them by default; what they allow, it then may not."""
    async with running(pki, tmp_path) as (_, client):
        dropped = status_of(await told(client, STATUS, Isolation(drop_capabilities=True)))
        if not ROOT:  # who has none cannot empty the bounding set, of which no_new_privs leaves nothing to be had
            dropped.pop("CapBnd")
        assert dropped.pop("NoNewPrivs") == "1"
        assert set(dropped.values()) == {NOTHING}
        if ROOT:
            assert status_of(await told(client, STATUS))["CapEff"] != NOTHING
            refused = await told(client, "hostname other 2>&1 || chown 1 / 2>&1", Isolation(drop_capabilities=True))
            assert refused.count("not permitted") + refused.count("must be root") == 2


@pytest.mark.parametrize(("asked", "shown"), [(IoClass.IDLE, "idle"), (IoClass.BEST_EFFORT, "best-effort: prio 4")])
async def test_the_turn_at_a_disk_is_as_asked_for(pki: TestPki, tmp_path: Path, asked: IoClass, shown: str) -> None:
    """As another process reads it back, and inside a sandbox too, where there are any."""
    if shutil.which("ionice") is None:
        pytest.skip("needs ionice(1)")
    async with running(pki, tmp_path) as (_, client):
        limits = Limits(io_class=IoClass(asked))
        for isolation in (None, WHOLE) if set(ALL_FLAGS) <= set(MEANS.available) else (None,):
            assert await told(client, "ionice -p $$", isolation, limits=limits) == f"{shown}\n"
        assert (await client.start(["true"], limits=limits)).spec.limits == limits


async def test_real_time_is_not_to_be_had(pki: TestPki, tmp_path: Path) -> None:
    """Nor anything else that is no class; the operator's ceiling holds as others do."""
    file = tmp_path / "jobd.toml"
    file.write_text('[limits.max]\nio-class = "idle"\n')
    async with running(pki, tmp_path, "--config", str(file)) as (_, client):
        for value, why in ((3, "is 3, and not between 1 and 2"), (2, "is 2, and alice may ask for 1")):
            with pytest.raises(InvalidArgumentError, match=why) as caught:
                await client.start(["true"], limits=Limits(io_class=value))  # type: ignore[arg-type] # on purpose
            assert [each.field for each in caught.value.violations] == ["spec.limits.io_class"]
        job = await client.start(["true"])
        assert job.spec.limits is not None
        assert job.spec.limits.io_class == IoClass.IDLE


async def test_what_cannot_be_had_is_refused_by_name(pki: TestPki, tmp_path: Path) -> None:
    """It is never ignored. A jobd without a launcher can make no sandboxes, and says so; another says what it can."""
    async with (
        running_daemon(pki, tmp_path / "a") as server,
        JobClient.connect(server, **pki.credentials("alice")) as client,
    ):
        [worker] = (await client.workers()).workers
        assert worker.isolation == ["drop_capabilities"]
        assert any("cannot be had here" in weakness for weakness in worker.weaknesses)
        with pytest.raises(InvalidArgumentError, match="cannot be had here") as caught:
            await client.start(["true"], isolation=WHOLE)
        assert [each.field for each in caught.value.violations] == [f"spec.isolation.{name}" for name in ALL_FLAGS]
        with pytest.raises(InvalidArgumentError, match="together with drop_capabilities"):
            await client.start(["true"], isolation=Isolation(allow_new_privileges=True, drop_capabilities=True))
        assert [job async for job in client.list()] == []
        assert status_of(await told(client, STATUS))["NoNewPrivs"] == "1"
    async with running(pki, tmp_path / "b") as (_, client):
        [worker] = (await client.workers()).workers
        assert worker.isolation == MEANS.available
        assert set(MEANS.weaknesses) <= set(worker.weaknesses)


# ---- each flag


@needs_sandbox
async def test_a_private_tmp_is_empty_and_goes_with_the_job(pki: TestPki, tmp_path: Path) -> None:
    """It hides what is in the machine's (sockets too), can be written by all, and nothing of it is left."""
    mine = Path("/tmp") / f"jobd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(mine))
        try:
            async with running(pki, tmp_path) as (_, client):
                script = f"ls -A /tmp /var/tmp; stat -c %a /tmp; echo x > /tmp/left && cat /tmp/left; ls {mine}"
                text = await told(client, script, Isolation(private_tmp=True))
                assert text == "/tmp:\n\n/var/tmp:\n1777\nx\n"
                assert not Path("/tmp/left").exists()
                assert await told(client, f"ls {mine}") == f"{mine}\n"
                assert await told(client, "echo y > /dev/shm/jobd-test && rm /dev/shm/jobd-test; echo $?") == "0\n"
        finally:
            mine.unlink()


@needs_sandbox
async def test_a_read_only_root_cannot_be_written(pki: TestPki, tmp_path: Path, outside: Path) -> None:
    """Nowhere: not where the user may, not in /tmp, not through /proc and /sys, not by mounting it anew."""
    target = outside / "file"
    tries = (
        f"echo bad > {target}",
        "echo bad > /tmp/jobd-test-bad",
        "echo 0 > /proc/self/oom_score_adj",
        f"mount -o remount,rw / && echo bad > {target}",
        f"mount --bind -o rw {outside} {outside} && echo bad > {target}",
        "for g in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do echo 0 > $g && exit 0; done; exit 1",
        f"echo bad > /proc/{os.getpid()}/root{target}",
        "for d in /dev/[sv]d? /dev/nvme?; do test -e $d && exit 0; done; exit 1",
    )
    script = "; ".join(f"({each}) 2>/dev/null && echo 'done: {n}'" for n, each in enumerate(tries))
    async with running(pki, tmp_path) as (_, client):
        assert await told(client, script, Isolation(read_only_root=True)) == ""
        assert not target.exists()
        both = Isolation(read_only_root=True, private_tmp=True)
        script = f"echo x > x && cat x; echo x > /dev/null && echo y; echo bad > {target}"
        assert await told(client, script, both, cwd="/tmp") == "x\ny\n"
        assert not target.exists()


@needs_sandbox
async def test_without_network_nobody_is_reached(pki: TestPki, tmp_path: Path) -> None:
    """Not the machine's own loopback, and no abstract socket; its own loopback is there."""
    connect = "import socket; s = socket.socket(socket.{}); s.settimeout(5); s.connect({!r}); print('reached')"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0jobd-test-{os.getpid()}")
        abstract.listen()
        wanted = (connect.format("AF_INET", tcp.getsockname()), connect.format("AF_UNIX", f"\0jobd-test-{os.getpid()}"))
        path = {"PATH": os.environ["PATH"]}
        async with running(pki, tmp_path) as (_, client):
            for script in wanted:
                command = ["python3", "-c", script]
                text, _ = await outcome(client, await client.start(command, env=path))
                assert text == "reached\n"
                text, verdict = await outcome(
                    client, await client.start(command, env=path, isolation=Isolation(no_network=True))
                )
                assert "ConnectionRefusedError" in text
                assert verdict.state == JobState.FAILED
            assert await told(client, "ls /sys/class/net", WHOLE)
            own = "import socket; a = socket.create_server(('127.0.0.1', 0)); socket.create_connection(a.getsockname())"
            command = ["python3", "-c", own]
            _, verdict = await outcome(
                client, await client.start(command, env=path, isolation=Isolation(no_network=True))
            )
            assert verdict.state == JobState.SUCCEEDED


@needs_sandbox
async def test_in_a_pid_namespace_there_is_nobody_else(pki: TestPki, tmp_path: Path) -> None:
    """It sees its own processes only, and has none of the others' numbers to signal."""
    async with running(pki, tmp_path) as (_, client):
        isolation = Isolation(pid_namespace=True)
        numbers = (await told(client, "echo $$; cd /proc; echo [0-9]*", isolation)).split()
        assert numbers == ["2", "1", "2"]
        assert "No such process" in await told(client, f"kill -0 {os.getppid() + 10000} 2>&1", isolation)


@needs_sandbox
async def test_a_sandboxed_job_has_what_every_job_has(pki: TestPki, tmp_path: Path) -> None:
    """Its environment, its id, its directory, its three descriptors and no other, its signals, its limits."""
    script = "ls /proc/self/fd | wc -l; pwd; env | sort; grep -E 'Sig(Blk|Ign)' /proc/self/status; ulimit -n; nice"
    async with running(pki, tmp_path) as (_, client):
        limits = Limits(open_files=50, nice=3)
        fields = {"env": {"A": "b", "LD_PRELOAD": "/nowhere.so"}, "cwd": "/usr", "limits": limits}
        plain = await client.start(["sh", "-c", script], **fields)  # type: ignore[arg-type] # JobClient.start's
        inside = await client.start(["sh", "-c", script], **fields, isolation=WHOLE)  # type: ignore[arg-type] # the same
        expected = (await outcome(client, plain))[0].replace(plain.id, inside.id)
        assert sorted((await outcome(client, inside))[0].splitlines()) == sorted(expected.splitlines())
        assert "LD_PRELOAD=/nowhere.so" in expected  # and nobody else has complained of it: not what makes the sandbox
        assert (await client.query(inside.id)).spec.isolation == WHOLE


@needs_sandbox
@pytest.mark.skipif(not ROOT, reason="needs root: others have no capabilities")
async def test_a_sandboxed_job_of_root_cannot_undo_it(pki: TestPki, tmp_path: Path) -> None:
    """It has what containers have, less the making of devices; on request, nothing at all."""
    async with running(pki, tmp_path) as (_, client):
        some = status_of(await told(client, STATUS, Isolation(private_tmp=True)))
        assert some["CapEff"] == some["CapPrm"] == "00000000a00425fb"
        asked = replace(WHOLE, drop_capabilities=True)
        none = status_of(await told(client, STATUS, asked))
        assert none.pop("NoNewPrivs") == "1"
        assert set(none.values()) == {NOTHING}
        undo = "umount /tmp || nsenter -t 1 -m true || echo neither"
        assert await told(client, undo, Isolation(private_tmp=True)) == "neither\n"


# ---- how it starts and ends


@needs_sandbox
async def test_what_cannot_be_started_inside_is_told_as_outside(pki: TestPki, tmp_path: Path) -> None:
    """The state, the reason, and no output; a directory that the sandbox hides is not there."""
    async with running(pki, tmp_path) as (_, client):
        with TemporaryDirectory(dir="/tmp") as hidden:
            for command, cwd, reason in (
                ("no-such-command", "", "COMMAND_NOT_FOUND"),
                ("/no/such/command", "", "COMMAND_NOT_FOUND"),
                ("/etc/passwd", "", "NOT_EXECUTABLE"),
                ("true", "/no/such/directory", "CWD_UNUSABLE"),
                ("true", hidden, "CWD_UNUSABLE"),
            ):
                job = await client.start([command], cwd=cwd, isolation=WHOLE)
                assert (job.state, job.reason, job.output_bytes) == (JobState.START_FAILED, reason, 0)


@needs_sandbox
async def test_a_sandbox_that_cannot_be_made_is_a_failed_start(pki: TestPki, tmp_path: Path) -> None:
    """With what bubblewrap says of it; nothing is left. (There may be no second process, which it needs.)"""
    async with running(pki, tmp_path) as (_, client):
        [worker] = (await client.workers()).workers
        if "processes" not in worker.limits:
            pytest.skip(
                f"needs a control group with the pids controller (root, or delegation); here: {worker.containment}"
            )
        job = await client.start(["true"], isolation=WHOLE, limits=Limits(processes=1), env={"MARK": "no-room"})
        assert (job.state, job.reason) == (JobState.START_FAILED, "ISOLATION_FAILED")
        assert "bubblewrap says" in job.message
        assert processes_with("MARK=no-room") == []


@needs_sandbox
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
async def test_the_end_is_told_as_it_was(pki: TestPki, tmp_path: Path, isolation: Isolation) -> None:
    """Not as bubblewrap tells it, unless the kernel is too old to be asked; then as that does, and that is said."""
    exact = not any("128+N" in weakness for weakness in MEANS.weaknesses)
    async with running(pki, tmp_path) as (_, client):
        for script, code, signum in (
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("exit 143", 143, None),
            ("kill -TERM $$", None if exact else 143, signal.SIGTERM if exact else None),
            ("kill -KILL $$", None if exact else 137, signal.SIGKILL if exact else None),
        ):
            _, verdict = await outcome(client, await client.start(["sh", "-c", script], isolation=isolation))
            assert (verdict.exit_code, verdict.signal) == (code, signum), script


HANDLER = "trap 'echo heard; sleep 0.3; echo done; exit 5' TERM; echo ready; while :; do sleep 0.05; done"


@needs_sandbox
@pytest.mark.parametrize("kind", ["auto", "none"])
@pytest.mark.parametrize("main", [False, True], ids=["all", "main"])
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
async def test_a_stop_gives_the_job_its_grace(
    pki: TestPki, tmp_path: Path, kind: str, main: bool, isolation: Isolation
) -> None:
    """The signal reaches the job, and not only what is around it, which stays until it has ended; its code survives."""
    async with running(pki, tmp_path, kind=kind) as (_, client):
        job = await client.start(["sh", "-c", HANDLER], isolation=isolation, env={"MARK": f"grace-{tmp_path.name}"})
        async with client.stream(job.id, source=OutputSource(OutputSource.STDOUT)) as output:
            assert (await anext(output)).data == b"ready\n"
            stopped = await client.stop(job.id, grace=20, main_only=main)
            text = b"".join([chunk.data async for chunk in output])
        assert text == b"heard\ndone\n"
        assert (stopped.state, stopped.exit_code) == (JobState.STOPPED, 5)
        receipt = stopped.stop_receipt
        assert receipt is not None
        assert receipt.empty
        assert {"sh", "bwrap"} <= {each.command for each in receipt.processes}
        assert {each.signal for each in receipt.processes} <= {signal.SIGTERM, signal.SIGKILL}
        assert processes_with(f"JOBD_JOB_ID={job.id}") == []


@needs_sandbox
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
@pytest.mark.parametrize("kind", ["auto", "none"])
async def test_nobody_outlives_a_sandboxed_job(pki: TestPki, tmp_path: Path, kind: str, isolation: Isolation) -> None:
    """A stop, a timeout, and the end of the main process with others left behind: after each nothing is there."""
    deaf = "trap '' TERM; (setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" &); echo ready; {}"
    mark = {"MARK": f"alone-{tmp_path.name}"}
    async with running(pki, tmp_path, "--grace", "0.5", "--drain", "0.2", kind=kind) as (_, client):
        endless = deaf.format("while :; do sleep 0.1; done")
        ended = []
        for script, limits in (
            (endless, None),
            (endless, Limits(timeout=timedelta(seconds=1))),
            (deaf.format("exit 4"), None),
        ):
            job = await client.start(["sh", "-c", script], isolation=isolation, env=mark, limits=limits)
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == b"ready\n"
            if not ended:
                await client.stop(job.id)
            await client.wait(job.id)
            ended.append(await client.query(job.id))
            assert processes_with(mark["MARK"]) == []
            assert processes_with(f"JOBD_JOB_ID={job.id}") == []
        assert [job.state for job in ended] == [JobState.STOPPED, JobState.TIMED_OUT, JobState.FAILED]
        assert ended[2].exit_code == 4
        assert all(job.stop_receipt is not None and job.stop_receipt.empty for job in ended)


@needs_sandbox
async def test_a_sandboxed_job_is_adopted(pki: TestPki, tmp_path: Path) -> None:
    """The server is killed, and the launcher replaced; afterwards a signal still reaches the main process alone, and
    its code is known."""
    script = "trap 'exit 6' HUP; sh -c 'trap \"echo child heard\" HUP; echo ready; while :; do sleep 0.05; done' & "
    async with running(pki, tmp_path, "--drain", "0.2") as (jobd, client):
        job = await client.start(["sh", "-c", f"{script} while :; do sleep 0.05; done"], isolation=WHOLE)
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
            await trio.to_thread.run_sync(jobd.kill_server)
            upgrade = await trio.run_process(
                [sys.executable, "-m", "jobd", "upgrade", "--state", str(jobd.state)],
                check=False,
                capture_stderr=True,
                env={**os.environ, "PYTHONPATH": str(CODE)},
            )
            assert upgrade.returncode == 0, upgrade.stderr
            stopped = await client.stop(job.id, signum=signal.SIGHUP, main_only=True, grace=20)
            assert b"child heard" not in b"".join([chunk.data async for chunk in output])
        assert (stopped.state, stopped.exit_code) == (JobState.STOPPED, 6)


@needs_sandbox
async def test_sandboxed_jobs_leave_nothing_behind(pki: TestPki, tmp_path: Path) -> None:
    """Those that run to their end, those that are stopped and those that cannot be started: no descriptor of the
    launcher, no process."""
    async with running(pki, tmp_path) as (jobd, client):
        descriptors = Path(f"/proc/{jobd.launcher}/fd")
        await client.wait((await client.start(["true"], isolation=WHOLE)).id)
        before = len(list(descriptors.iterdir()))
        mark = {"MARK": f"nothing-{tmp_path.name}"}

        async def one(number: int) -> None:
            command = [["true"], ["sleep", "1000"], ["no-such-command"]][number % 3]
            job = await client.start(command, isolation=WHOLE, env=mark)
            await client.stop(job.id, grace=0)

        async with trio.open_nursery() as nursery:
            for number in range(15):
                nursery.start_soon(one, number)
        assert processes_with(mark["MARK"]) == []
        while len(list(descriptors.iterdir())) > before:
            await trio.sleep(0.01)


@needs_sandbox
async def test_a_limit_above_jobd_s_own_is_the_same_inside(pki: TestPki, tmp_path: Path) -> None:
    """Who may raise it has it raised before, since nobody may inside; who may not is told the same."""
    limits = Limits(open_files=min(resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1, 2**20))
    async with running(pki, tmp_path) as (_, client):
        jobs = [await client.start(["sh", "-c", "ulimit -n"], limits=limits, isolation=each) for each in (None, WHOLE)]
        outside, inside = await client.wait(*[job.id for job in jobs])
        assert (inside.state, inside.message) == (outside.state, outside.message)
        if inside.state == JobState.START_FAILED:
            assert inside.message == "the job's limits cannot be set: Operation not permitted"
        else:
            assert (await outcome(client, inside))[0] == (await outcome(client, outside))[0] == f"{limits.open_files}\n"


@needs_sandbox
async def test_what_made_the_sandbox_can_be_killed(pki: TestPki, tmp_path: Path) -> None:
    """By the job itself, as any of its processes: then it has ended, and nobody is left."""
    async with running(pki, tmp_path) as (_, client):
        job = await client.start(
            ["sh", "-c", "kill -9 $PPID; while :; do sleep 0.1; done"],
            isolation=Isolation(no_network=True),
            env={"MARK": f"killer-{tmp_path.name}"},
        )
        [ended] = await client.wait(job.id)
        assert (ended.state, ended.signal) == (JobState.KILLED, signal.SIGKILL)
        assert processes_with(f"MARK=killer-{tmp_path.name}") == []
