"""The real ``jobcli`` against a daemon. stop, query, list, wait, workers and signal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from api.client import JobClient
from api.messages import JobState
from jobd.worker.identity import own
from tests.support.jobcli import NO_JOB, Jobcli, environment_for
from tests.support.pki import TestPki


async def test_stop_says_how_each_job_ended(jobcli: Jobcli, client: JobClient) -> None:
    """A line a job, in the order asked for, and below it the receipt."""
    jobs = [await client.start(["sleep", "1000"]) for _ in range(2)]
    lines = (await jobcli.ok("stop", *[job.id for job in jobs])).splitlines()
    assert lines[::3] == [f"{job.id}  stopped: ended by SIGTERM; alice asked for it" for job in jobs]
    assert all(re.fullmatch(r"  1 process in [0-9.]+ s; nothing is left \(\S+\)", line) for line in lines[1::3])
    assert [line.split() for line in lines[2::3]] == [
        [str(job.pid), "sleep", "ended", "after", "SIGTERM"] for job in jobs
    ]
    assert {(await client.query(job.id)).state for job in jobs} == {JobState.STOPPED}


async def test_stop_without_grace_kills(jobcli: Jobcli, client: JobClient) -> None:
    """--grace 0 is SIGKILL at once; a job that there is not, before it, is said and nothing more."""
    job = await client.start(["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.02; done'])
    async with client.stream(job.id) as output:
        await anext(output)
    ended = await jobcli("stop", "--json", "--grace", "0", NO_JOB, job.id)
    assert ended.code == 125
    assert re.fullmatch(rf"jobcli: there is no job {NO_JOB};[^\n]*\n", ended.error)
    facts = json.loads(ended.text)
    assert (facts["state"], facts["signal"], facts["stopped_by"]) == ("stopped", 9, "alice")


async def test_query_tells_the_facts_a_line_each(jobcli: Jobcli, client: JobClient) -> None:
    """For people: what is known, and only that, with words that a shell takes."""
    job = await client.start(["sh", "-c", "echo x; exit 3"], name="my job", env={"A": "b c"})
    await client.wait(job.id)
    printed = await jobcli.ok("query", job.id[:8])
    facts = dict(line.split(":", 1) for line in printed.splitlines())
    assert {
        key: value.strip() for key, value in facts.items() if not key.endswith(("_at", "pid", "dropped_bytes", "usage"))
    } == {
        "id": job.id,
        "name": "my job",
        "argv": "sh -c 'echo x; exit 3'",
        "env": "A='b c'",
        "user": own().name,
        "state": "failed",
        "reason": "EXITED",
        "message": "exited with code 3",
        "exit_code": "3",
        "wait_status": "768",
        "worker": job.worker,
        "started_by": "alice",
        "output_bytes": "2",
    }


async def test_query_tells_that_a_job_exited_with_0(jobcli: Jobcli, client: JobClient) -> None:
    """Nought is a fact: the exit code of a job that succeeded, and the size of its empty output."""
    job = await client.start(["true"])
    await client.wait(job.id)
    facts = dict(line.split(":", 1) for line in (await jobcli.ok("query", job.id)).splitlines())
    assert {key: facts.get(key, "").strip() for key in ("exit_code", "output_bytes")} == {
        "exit_code": "0",
        "output_bytes": "0",
    }


async def test_query_escapes_what_could_move_the_cursor(jobcli: Jobcli, client: JobClient) -> None:
    """Arguments are a stranger's text."""
    job = await client.start(["echo", "\x1b[2J\u202e\nname: forged"])
    printed = await jobcli.ok("query", job.id)
    assert all(line.isprintable() for line in printed.splitlines())
    assert "\nname: forged" not in printed


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_query_as_json_has_every_fact(jobcli: Jobcli, client: JobClient) -> None:
    """One line of JSON with every key, whatever the job; times in RFC 3339, unknown facts null."""
    started = await client.start(["sh", "-c", "echo abc; kill -9 $$"], name="n")
    [job] = await client.wait(started.id)
    printed = await jobcli.ok("query", "--json", job.id)
    assert printed.count("\n") == 1
    facts = json.loads(printed)
    times = [facts.pop(f"{moment}_at") for moment in ("created", "started", "ended")]
    assert all(TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    usage = facts.pop("usage")
    assert set(usage) <= {
        *("cpu_seconds", "memory_peak_bytes", "read_bytes", "written_bytes", "wall_seconds"),
        *("processes", "processes_peak"),
    }
    assert job.started_at is not None
    assert job.ended_at is not None
    assert usage["wall_seconds"] == (job.ended_at - job.started_at).total_seconds()
    assert facts == {
        "id": job.id,
        "name": "n",
        "argv": ["sh", "-c", "echo abc; kill -9 $$"],
        "env": {},
        "secret_env": [],
        "cwd": "",
        "user": own().name,
        "group": None,
        "umask": None,
        "state": "killed",
        "stopping": False,
        "reason": "SIGNALLED",
        "message": "ended by SIGKILL",
        "exit_code": None,
        "signal": 9,
        "core_dumped": False,
        "wait_status": 9,
        "pid": job.pid,
        "worker": job.worker,
        "started_by": "alice",
        "traceparent": None,
        "stopped_by": None,
        "output_bytes": 4,
        "dropped_bytes": 0,
        "stdin": None,
        "terminal": None,
        "limits": None,
        "isolation": None,
        "worker_labels": None,
        "retry_lost": None,
        "attempt": None,
        "stop_receipt": None,
    }


async def test_query_tells_how_long_a_job_has_run(jobcli: Jobcli, client: JobClient) -> None:
    """While it runs: nobody need subtract."""
    job = await client.start(["sleep", "1000"])
    seen = [json.loads(await jobcli.ok("query", "--json", job.id)) for _ in range(2)]
    assert 0 < seen[0]["usage"]["wall_seconds"] < seen[1]["usage"]["wall_seconds"]
    assert seen[0]["wait_status"] is None
    await client.stop(job.id, grace=0)


async def test_query_takes_several_jobs(jobcli: Jobcli, client: JobClient) -> None:
    """As JSON, a line each, in the order asked for."""
    ids = [(await client.start(["true"])).id for _ in range(3)]
    printed = await jobcli.ok("query", "--json", *ids)
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ids


@pytest.fixture
async def three(client: JobClient) -> list[str]:
    """A job that succeeded, one that failed, one that runs."""
    jobs = [
        await client.start(["true"], name="good"),
        await client.start(["false"], name="bad"),
        await client.start(["sleep", "1000"], name="long"),
    ]
    await client.wait(jobs[0].id, jobs[1].id)
    return [job.id for job in jobs]


async def test_list_is_a_table_newest_first(jobcli: Jobcli, three: list[str]) -> None:
    """A heading, and a line a job."""
    heading, *lines = (await jobcli.ok("list")).splitlines()
    assert heading.split() == ["ID", "STATE", "EXIT", "NAME", "WORKER", "BY", "CREATED", "OUTPUT", "COMMAND"]
    assert [line.split()[0] for line in lines] == [job_id[:8] for job_id in reversed(three)]
    assert [line.split()[1] for line in lines] == ["running", "failed", "succeeded"]
    assert lines[0].endswith("sleep 1000")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["long", "bad", "good"]),
        (["--limit", "2"], ["long", "bad"]),
        (["--state", "failed"], ["bad"]),
        (["--state", "failed", "--state", "succeeded"], ["bad", "good"]),
        (["--state", "failed", "--state", "succeeded", "--limit", "1"], ["bad"]),
        (["--state", "lost"], []),
    ],
)
async def test_list_as_json_is_a_job_a_line(
    jobcli: Jobcli, three: list[str], arguments: list[str], names: list[str]
) -> None:
    """All jobs, or those in some states, or the newest few."""
    printed = await jobcli.ok("list", "--json", *arguments)
    assert [json.loads(line)["name"] for line in printed.splitlines()] == names


async def test_a_reader_can_list(pki: TestPki, tmp_path: Path, server: str, three: list[str]) -> None:
    """Reading is for readers."""
    printed = await Jobcli(environment_for(pki, tmp_path, server, "rita")).ok("list", "--json")
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (["exit 7"], 7),
        (["kill -9 $$"], 137),
        (["exit 0", "exit 0"], 0),
        (["exit 0", "exit 4", "exit 5"], 4),
    ],
)
async def test_wait_ends_as_the_first_job_that_did_not_succeed(
    jobcli: Jobcli, client: JobClient, scripts: list[str], code: int
) -> None:
    """First in the order asked for; each job has its line."""
    ids = [(await client.start(["sh", "-c", f"sleep 0.1; {script}"])).id for script in scripts]
    ended = await jobcli("wait", *ids)
    assert (ended.code, ended.error) == (code, "")
    assert [line.split()[0] for line in ended.text.splitlines()] == ids


async def test_wait_for_any_ends_with_the_first(jobcli: Jobcli, client: JobClient) -> None:
    """--any: those that go on are not waited for, and not in the answer."""
    long, short = await client.start(["sleep", "1000"]), await client.start(["sh", "-c", "exit 6"])
    ended = await jobcli("wait", "--any", long.id, short.id)
    assert (ended.code, ended.text) == (6, f"{short.id}  failed: exited with code 6\n")


async def test_wait_gives_up_after_its_timeout(jobcli: Jobcli, client: JobClient) -> None:
    """125: that the time is up is no verdict on the job."""
    job = await client.start(["sleep", "1000"])
    told = await jobcli.fails("wait", "--timeout", "0.2", job.id)
    assert "0.2 s" in told
    assert (await client.query(job.id)).state == JobState.RUNNING


async def test_workers_shows_the_pool(jobcli: Jobcli, client: JobClient) -> None:
    """For people: a line a worker with what it runs, and how many jobs wait."""
    await client.start(["sleep", "1000"], name="long")
    heading, worker, pending, *weaknesses = (await jobcli.ok("workers")).splitlines()
    assert heading.split() == ["WORKER", "RUNNING", "SLOTS", "CONTAINMENT", "JOBS"]
    assert re.match(r"\S+ +1 +64 +(cgroup v[12]|cgroup v1 and v2|none) ", worker)
    assert "long" in worker
    assert pending == "0 pending"
    assert all(weakness.startswith("local: ") for weakness in weaknesses)
    assert any("private_tmp" in weakness for weakness in weaknesses)


async def test_workers_as_json_is_a_worker_a_line(jobcli: Jobcli, client: JobClient) -> None:
    """With the jobs that each has, as query shows them."""
    job = await client.start(["sleep", "1000"])
    (facts,) = map(json.loads, (await jobcli.ok("workers", "--json")).splitlines())
    assert (facts["running"], facts["slots"], facts["jobs"][0]["id"]) == (1, 64, job.id)


async def test_what_is_about_a_pool_is_refused_where_there_is_none(jobcli: Jobcli, client: JobClient) -> None:
    """And so is a job that asks for a label, from the command line and from a file: nobody would ever take it."""
    for words in (("drain", "local"), ("undrain", "local"), ("forget", "00000000")):
        assert "this jobd is not in a pool" in await jobcli.fails(*words)
    told = await jobcli.fails("start", "--on", "gpu=a100", "--on", "zone=1", "--", "true")
    assert "spec.worker_labels: no worker here has labels" in told
    assert "--on 'gpu' is not of the form K=V" in await jobcli.fails("start", "--on", "gpu", "--", "true")
    assert [job async for job in client.list()] == []


@pytest.mark.parametrize("name", ["USR1", "sigusr1", "10"])
async def test_signal_goes_to_the_job(jobcli: Jobcli, client: JobClient, name: str) -> None:
    """By name, with or without SIG, in any case, or by number."""
    job = await client.start(["sh", "-c", 'trap "exit 5" USR1; echo ready; while :; do sleep 0.02; done'])
    async with client.stream(job.id) as output:
        await anext(output)
    assert await jobcli.ok("signal", job.id, name) == ""
    (ended,) = await client.wait(job.id)
    assert ended.exit_code == 5


async def test_a_signal_to_a_job_that_has_ended_is_said(jobcli: Jobcli, client: JobClient) -> None:
    """There is nobody to get it."""
    job = await client.start(["true"])
    await client.wait(job.id)
    assert "there is no process to send a signal to" in await jobcli.fails("signal", job.id, "TERM")
