"""What keeps a job from the machine does so."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from api.client import JobClient
from api.errors import InvalidArgumentError
from api.messages import IoClass, Isolation, JobState, Limits
from tests.faults.isolated import ALL_FLAGS, MEANS, WHOLE, needs_sandbox, outcome, running, told
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki

ROOT = os.geteuid() == 0


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
