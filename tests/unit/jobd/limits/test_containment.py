"""Whatever holds a job's processes finds all of them, ends all of them, and says so truly.

The same rules for each kind: control groups with a tree of version 2, with one of version 1, and none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobd.launcher.procfs import group_has_members
from jobd.limits.detect import Choice, control_groups, detect
from jobd.limits.groups import ControlGroup
from jobd.limits.hierarchies import Hierarchy, hierarchies
from jobd.limits.processes import send_directly, stat_of
from jobd.limits.settings import V1_IO, usage
from jobd.limits.walk import Walk
from jobd.worker.containment import Containment, Limits, Usage
from tests.support.jobs import processes_with
from tests.support.patience import patient

SECONDS = patient(20)
DAEMON = f"jobd-test-{os.getpid()}"
V2_SHARES = {"cpu.max": "50000 100000", "cpu.weight": "200"}
SHARES = {**V2_SHARES, "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "cpu.shares": "2048"}
"""Half a processor, and twice the weight of others."""


def present() -> list[Hierarchy]:
    return hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def remove_all(name: str) -> None:
    """Remove what a test's containment made for the daemon as a whole."""
    for hierarchy in present():
        with contextlib.suppress(OSError):
            (hierarchy.base / name).rmdir()


@pytest.fixture(params=["v2", "v1", "none"])
def containment(request: pytest.FixtureRequest) -> Iterator[Containment]:
    """One of each kind, if this machine lets us."""
    if request.param == "none":
        yield Walk()
        return
    wanted = 2 if request.param == "v2" else 1
    found = control_groups(DAEMON, [each for each in present() if each.version == wanted])
    if found is None:
        pytest.skip(f"needs control groups of version {wanted} in which this user may make some: root, or delegation")
    try:
        yield found
    finally:
        until(lambda: found.sweep(frozenset()) == 0)  # whoever was killed may take a while to end
        remove_all(DAEMON)


@pytest.fixture
def run(containment: Containment) -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], str]]]:
    """Start a script in a container; gives its process and the job id. It says something when it is where it wants."""
    started: list[tuple[subprocess.Popen[bytes], str]] = []

    def start(script: str) -> tuple[subprocess.Popen[bytes], str]:
        job_id = str(uuid.uuid4())
        container = containment.create(job_id, Limits())
        entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances) or ":"
        process = subprocess.Popen(
            ["sh", "-c", f'{entrances}; exec sh -c "$0"', script],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "JOBD_JOB_ID": job_id},
        )
        started.append((process, job_id))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process, job_id

    yield start
    for process, job_id in started:
        with process:
            for pid in processes_with(f"JOBD_JOB_ID={job_id}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


TREES = {
    "one process": "echo ready; exec sleep 1000",
    "children": "sleep 1000 & sleep 1000 & echo ready; wait",
    "deaf to SIGTERM": "trap '' TERM; echo ready; while :; do sleep 1000; done",
    "a double fork in a session of its own": "setsid sh -c 'setsid sleep 1000 & exit' ; echo ready; exec sleep 1000",
    "an orphan only": "setsid setsid sleep 1000 > /dev/null & sleep 0.2; echo ready",
    "stopped": "sleep 1000 & kill -STOP $!; echo ready; wait",
    "without descriptors": f"exec {sys.executable} -c \"import os,time; print('ready',flush=True); "
    'os.closerange(0,100); time.sleep(1000)"',
}


@pytest.mark.parametrize("tree", TREES)
def test_a_kill_leaves_nobody(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]], tree: str
) -> None:
    """Whatever the tree: found before, and gone after; the container says so, and /proc agrees."""
    process, job_id = run(TREES[tree])
    if "orphan" in tree:
        process.wait()
    container = containment.find(job_id, process.pid)
    members = container.members()
    assert members
    assert not container.is_empty()
    if "double fork" in tree or "orphan" in tree:
        assert any(member.left_session for member in members)
    container.kill()
    process.wait()
    until(container.is_empty)
    assert processes_with(f"JOBD_JOB_ID={job_id}") == []
    assert container.members() == []
    container.remove()


def test_a_signal_comes_to_the_job_itself_before_its_children(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Else a shell could see its child end, and exit with a code that tells of the child, before the signal is there
    for the shell itself."""
    process, job_id = run("for child in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo ready; wait")
    sent: list[int] = []
    containment.send = lambda _, targets, __: sent.extend(pid for pid, _ in targets)
    containment.find(job_id, process.pid).signal(signal.SIGUSR1)
    assert (sent[0], len(sent)) == (process.pid, 10)


def test_members_are_told_with_name_and_parent(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """As the kernel has them."""
    process, job_id = run("sleep 1000 & echo ready; wait")
    container = containment.find(job_id, process.pid)
    until(lambda: {member.command for member in container.members()} == {"sh", "sleep"})
    members = {member.command: member for member in container.members()}
    assert members["sh"].pid == process.pid
    assert members["sleep"].parent == process.pid
    assert not members["sleep"].left_session
    assert container.usage().processes in (2, None if containment.name == "none" else 2)


def test_a_signal_reaches_each(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Those that left the session too."""
    process, job_id = run("setsid sleep 1000 & sleep 1000 & echo ready; wait")
    container = containment.find(job_id, process.pid)
    until(lambda: len(container.members()) == 3)
    container.signal(signal.SIGTERM)
    process.wait()
    until(container.is_empty)


def test_a_fork_bomb_ends(containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]) -> None:
    """With a limit of processes, as bombs are to have; without control groups, a small one that forks on."""
    bomb = "for i in 1 2 3 4 5; do (while :; do (sleep 0.01 &) ; sleep 0.005; done) & done; echo ready; wait"
    process, job_id = run(bomb)
    container = containment.find(job_id, process.pid)
    end = time.monotonic() + SECONDS
    while not container.is_empty():
        assert time.monotonic() < end
        container.kill()
    process.wait()
    assert processes_with(f"JOBD_JOB_ID={job_id}") == []


def test_the_limit_of_processes_holds(containment: Containment) -> None:
    """Where it can be held, the kernel refuses to fork beyond it."""
    if "processes" not in containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    container = containment.create(str(uuid.uuid4()), Limits(processes=5))
    entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances)
    script = f"{entrances}; for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        assert b"fork" in process.stderr.readline()
        assert 1 <= len(container.members()) <= 5
        container.kill()
    until(container.is_empty)
    peak = container.usage().processes_peak
    assert peak is None or peak >= 5  # before Linux 6.1 nobody counts it
    container.remove()


def test_a_share_of_processors_is_told_to_the_kernel(containment: Containment) -> None:
    """How much at the most, and its weight beside others, as the version of its control groups has them."""
    if not {"cpus", "cpu_weight"} <= containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    container = containment.create(str(uuid.uuid4()), Limits(cpus=0.5, cpu_weight=200))
    files = [path for entrance in container.entrances for path in Path(entrance).parent.iterdir()]
    told = {path.name: path.read_text().strip() for path in files if path.name in SHARES}
    assert told == {name: text for name, text in SHARES.items() if (name in V2_SHARES) == ("cpu.max" in told)}
    container.remove()


def test_what_is_used_is_counted(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]], tmp_path: Path
) -> None:
    """Processor time; and bytes from and to disks where the kernel counts them. Without control groups, nothing is."""
    disk = f"dd bs=1M count=4 oflag=direct if=/dev/zero of={tmp_path}/file; dd bs=1M iflag=direct if={tmp_path}/file"
    process, job_id = run(f"({disk}) > /dev/null 2>&1 && echo ready; exec sleep 1000")
    used = containment.find(job_id, process.pid).usage()
    process.kill()
    if containment.name == "none":
        assert used == Usage()
        return
    assert used.cpu
    for counted in (used.read, used.written):
        assert counted is None or counted >= 4 * 2**20


@pytest.mark.parametrize(("above", "used"), [("8:0 Read 1\nTotal 1\n", (0, 0)), ("Total 0\n", (None, None))])
def test_who_does_not_count_says_0_of_everybody(
    tmp_path: Path, above: str, used: tuple[int | None, int | None]
) -> None:
    """Version 1 has the file whether or not the kernel counts: what nobody counted is not 0 bytes."""
    job = tmp_path / "jobd" / "job"
    job.mkdir(parents=True)
    for directory, text in ((tmp_path, above), (job.parent, "Total 0\n"), (job, "Total 0\n")):
        (directory / V1_IO).write_text(text)
    found = usage({"blkio": (1, job)})
    assert (found.read, found.written) == used


def test_running_out_of_memory_is_told_apart(containment: Containment) -> None:
    """Where memory is limited, the kernel's kill is counted; a SIGKILL of somebody else is not."""
    if "memory" not in containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    counts = []
    for script in ("x = bytearray(100_000_000)", "import os; os.kill(os.getpid(), 9)"):
        container = containment.create(str(uuid.uuid4()), Limits(memory=30_000_000))
        entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances)
        done = subprocess.run(["sh", "-c", f'{entrances}; exec {sys.executable} -c "$0"', script], check=False)
        assert done.returncode == -signal.SIGKILL
        usage = container.usage()
        assert usage.memory_peak is not None
        assert usage.cpu is None or usage.cpu > 0
        counts.append(usage.out_of_memory > 0)
        until(container.is_empty)
        container.remove()
    assert counts == [True, False]


def test_nothing_is_left_of_what_was_removed(containment: Containment) -> None:
    """Groups that the job made in its own included; and a sweep removes what a crash left."""
    containers = [containment.create(str(uuid.uuid4()), Limits()) for _ in range(3)]
    entrances = containers[0].entrances
    for entrance in entrances:
        (Path(entrance).parent / "own" / "deeper").mkdir(parents=True)
    assert containers[0].remove_at_once() is not bool(entrances)
    containers[0].remove()
    assert containers[0].remove_at_once()
    left = containment.sweep(frozenset())
    assert left == (2 if entrances else 0)
    for container in containers:
        assert not any(Path(entrance).exists() for entrance in container.entrances)


def test_an_end_removes_what_is_empty_and_nothing_else(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Jobs that go on stay where they are."""
    process, job_id = run("echo ready; exec sleep 1000")
    empty = containment.create(str(uuid.uuid4()), Limits())
    entrances = list(empty.entrances)
    containment.close()
    assert not any(Path(entrance).exists() for entrance in entrances)
    container = containment.find(job_id, process.pid)
    assert [member.pid for member in container.members()] == [process.pid]
    container.kill()
    process.wait()
    until(container.is_empty)
    containment.close()
    assert not any(Path(entrance).parents[1].exists() for entrance in entrances)


def test_what_this_machine_has_is_found() -> None:
    """Control groups if some can be made, else /proc; never an error unless groups were demanded."""
    name = f"{DAEMON}-detect"
    try:
        assert detect(name, Choice.NONE).name == "none"
        found = detect(name)
        assert found.name in ("cgroup v1", "cgroup v2", "cgroup v1 and v2", "none")
        if found.name != "none":
            assert detect(name, Choice.CGROUP).name == found.name
    finally:
        remove_all(name)


def test_where_we_are_is_read_from_proc() -> None:
    """Mount points with odd names, parts of a hierarchy (containers), and a group of jobd's own beside the jobs."""
    mountinfo = (
        "31 1 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "37 31 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw\n"
    )
    membership = "3:cpu,cpuacct:/docker/abc/x\n1:name=systemd:/y\n0::/system.slice/jobd.service/supervisor\n"
    found = hierarchies(mountinfo, membership)
    assert found == [
        Hierarchy(1, frozenset({"cpu", "cpuacct"}), Path("/sys/fs/cgroup/cpu acct/x")),
        Hierarchy(2, frozenset(), Path("/nowhere/unified/system.slice/jobd.service")),
    ]


def test_a_command_can_have_any_name(tmp_path: Path) -> None:
    """Parentheses and spaces in it do not move the fields."""
    program = tmp_path / ") S 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            until(lambda: (stat := stat_of(process.pid)) is not None and stat.command != "python")
            stat = stat_of(process.pid)
            assert stat is not None
            assert stat.parent == os.getpid()
        finally:
            process.kill()


def test_who_has_the_number_of_a_first_process_that_was_reaped_is_a_stranger(containment: Containment) -> None:
    """Numbers come again, after days or after 32,768 processes; a launcher may remember an end for as long."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        try:
            while_it_lives, container = [containment.find(str(uuid.uuid4()), stranger.pid) for _ in range(2)]
            for each in (while_it_lives, container):
                each.began_with(stranger.pid)
            assert [member.pid for member in while_it_lives.members()] == [stranger.pid]
            container.first_ended()
            assert container.members() == []
            container.kill()
            assert stranger.poll() is None
            assert not group_has_members(stranger.pid)
        finally:
            stranger.kill()


def test_who_is_left_of_a_session_is_the_job_s_though_its_first_process_was_reaped(containment: Containment) -> None:
    """Nobody else gets the number as long as they are there."""
    command = ["sh", "-c", "sleep 1000 & echo $!"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as first:
        assert first.stdout
        left = int(first.stdout.readline())
        first.wait()
        container = containment.find(str(uuid.uuid4()), first.pid)
        container.began_with(first.pid)
        container.first_ended()
        assert [member.pid for member in container.members()] == [left]
        assert group_has_members(first.pid)
        container.kill()


def test_a_process_that_cannot_be_seen_is_not_taken_for_our_own_group(tmp_path: Path) -> None:
    """A group can hold processes of another pid namespace; cgroup.procs has 0 for them, and kill(2) means us by it."""
    (tmp_path / "cgroup.procs").write_text("0\n")
    heard: list[int] = []
    before = signal.signal(signal.SIGURG, lambda signum, _: heard.append(signum))
    try:
        ControlGroup([tmp_path], {}, 0).signal(signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, before)
    assert heard == []


def test_looking_for_groups_leaves_those_of_another_jobd_alone(tmp_path: Path) -> None:
    """The directory for the jobs may be another's, with the same name, which is about to put a job there."""
    (tmp_path / "jobd").mkdir()
    assert control_groups("jobd", [Hierarchy(1, frozenset({"pids"}), tmp_path)]) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["jobd"]


def test_why_there_are_no_groups_is_said(tmp_path: Path) -> None:
    """Each hierarchy in which none can be made, with the kernel's reason."""
    problems: list[str] = []
    nowhere = tmp_path / "nowhere"
    assert control_groups("jobd", [Hierarchy(2, frozenset({"pids"}), nowhere)], problems=problems) is None
    assert problems == [f"no control group can be made in {nowhere}: No such file or directory"]
    assert Walk(problems).weaknesses == (*Walk().weaknesses, *problems)


def test_why_controllers_cannot_be_had_is_said(tmp_path: Path) -> None:
    """Jobs are held together all the same; who wonders why there are no limits learns the kernel's reason."""
    (tmp_path / "cgroup.subtree_control").mkdir()  # it cannot be written
    found = control_groups("jobd", [Hierarchy(2, frozenset({"pids"}), tmp_path)])
    assert found is not None
    assert found.limits == frozenset()
    assert found.weaknesses == (
        "these limits cannot be held here: cpu_weight, cpus, memory, processes (Is a directory)",
    )


def test_who_has_the_number_of_one_that_has_gone_is_sent_nothing() -> None:
    """A look may be older than the signal; number and start together are one process for ever."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        there = stat_of(process.pid)
        assert there is not None
        send_directly("a", [(process.pid, there.started - 1)], signal.SIGKILL)
        send_directly("a", [(process.pid, there.started)], signal.SIGTERM)
        assert process.wait(SECONDS) == -signal.SIGTERM
