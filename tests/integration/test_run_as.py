"""Whom jobs run as, and who may ask for it: with a real jobd, and accounts that every machine has."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import AlreadyExistsError, InvalidArgumentError, PermissionDeniedError
from api.messages import JobState, Terminal
from tests.integration.conftest import Connect
from tests.support.accounts import (
    DAEMON,
    NOBODY,
    OWN,
    configuration,
    group_name,
    needs_not_root,
    needs_root,
    said,
    stranger_to,
)
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(30)
IDS = "id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '"


@asynccontextmanager
async def running(
    pki: TestPki, directory: Path, text: str, *flags: str
) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd with this configuration, and alice, who is a writer."""
    arguments = ("--config", configuration(directory, text), *flags)
    with jobd_program(pki, directory / "state", *arguments) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


async def refusal(client: JobClient, **fields: str) -> list[tuple[str, str]]:
    """The fields that a Start is refused for, with the reasons. Asserts that there is no job."""
    with pytest.raises(InvalidArgumentError) as caught:
        await client.start(["true"], **fields)  # type: ignore[arg-type] # the caller's are start's
    assert caught.value.reason == "INVALID_SPEC"
    assert [job async for job in client.list()] == []
    return [(each.field, each.description) for each in caught.value.violations]


# ---- as the configuration says


@needs_root
async def test_jobs_run_as_the_job_user(pki: TestPki, tmp_path: Path) -> None:
    """With its groups, its home and name, no right that it does not have; and the answers say so."""
    async with running(pki, tmp_path, "", "--job-user", "nobody") as (_, client):
        groups = sorted({*os.getgrouplist("nobody", NOBODY.pw_gid)})
        job, text = await said(client, f"{IDS}; echo; echo $HOME $USER $LOGNAME; grep CapEff /proc/self/status")
        assert text.splitlines() == [
            str(NOBODY.pw_uid),
            str(NOBODY.pw_gid),
            " ".join(map(str, groups)) + " ",
            f"{NOBODY.pw_dir} nobody nobody",
            "CapEff:\t0000000000000000",
        ]
        assert job.spec.user == "nobody"


@needs_root
async def test_a_job_can_open_its_own_streams(pki: TestPki, tmp_path: Path) -> None:
    """As programs do that write to /dev/stderr."""
    async with running(pki, tmp_path, "", "--job-user", "nobody") as (_, client):
        job, text = await said(client, "echo out > /dev/stdout; echo err > /dev/stderr")
        assert (job.state, sorted(text.split())) == (JobState.SUCCEEDED, ["err", "out"])


@needs_root
async def test_the_working_directory_is_entered_as_the_jobs_user(pki: TestPki, tmp_path: Path) -> None:
    """One that only root can enter is refused to others."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with running(pki, tmp_path, "", "--job-user", "nobody") as (_, client):
        job = await client.start(["true"], cwd=str(closed))
        assert (job.state, job.reason) == (JobState.START_FAILED, "CWD_UNUSABLE")


@needs_root
async def test_a_writer_may_run_jobs_as_whom_the_role_may(pki: TestPki, tmp_path: Path) -> None:
    """And as nobody else; the refusal is the same whether there is such a user or not."""
    async with running(pki, tmp_path, "[roles.writer]\nusers = ['nobody', 'daemon']\n") as (_, client):
        may = "and alice may run jobs as daemon, nobody"
        assert await refusal(client, user="root") == [("spec.user", f"is 'root', {may}")]
        assert await refusal(client, user="no-such-user") == [("spec.user", f"is 'no-such-user', {may}")]
        assert await refusal(client) == [("spec.user", f"is empty, which is 'root' here, {may}")]
        job, text = await said(client, "id -u", user="daemon")
        assert (job.spec.user, text) == ("daemon", f"{DAEMON.pw_uid}\n")


@needs_root
async def test_what_is_said_of_a_principal_holds_before_what_is_said_of_the_role(pki: TestPki, tmp_path: Path) -> None:
    """For that principal, and for no other."""
    text = "[roles.writer]\nusers = ['nobody']\n[principals.alice]\nusers = ['daemon']\n"
    async with running(pki, tmp_path, text) as (jobd, client):
        assert await refusal(client, user="nobody") == [("spec.user", "is 'nobody', and alice may run jobs as daemon")]
        async with JobClient.connect(jobd.server, **pki.credentials("both")) as other:
            assert await refusal(other, user="daemon") == [
                ("spec.user", "is 'daemon', and both may run jobs as nobody")
            ]
            assert (await said(other, "id -u", user="nobody"))[1] == f"{NOBODY.pw_uid}\n"


@needs_root
async def test_who_may_run_no_jobs_as_a_user_may_write_to_none_of_that_user(pki: TestPki, tmp_path: Path) -> None:
    """A shell's stdin is as good as a Start: neither a take-over nor a group gets around the configuration."""
    group = stranger_to("nobody")
    text = (
        f"[roles.writer]\nusers = ['nobody']\n[principals.alice]\nusers = ['daemon', 'nobody']\ngroups = ['{group}']\n"
    )
    async with (
        running(pki, tmp_path, text, "--slots", "4") as (jobd, client),
        JobClient.connect(jobd.server, **pki.credentials("both")) as other,
    ):
        shell = await client.start(["sh"], user="daemon", terminal=Terminal(24, 80))
        of_group = await client.start(["sh"], user="nobody", group=group, attachable=True)
        for job in (shell, of_group):
            async with client.attach(job.id):
                for take_over in (False, True):
                    with pytest.raises(PermissionDeniedError) as caught:
                        async with other.attach(job.id, take_over=take_over):
                            pass
                    assert caught.value.reason == "USER_FORBIDDEN"
        theirs = await client.start(["cat"], user="nobody", attachable=True)
        async with other.attach(theirs.id) as attachment:
            await attachment.send(b"hello")
            await attachment.close_stdin()
            assert b"".join([chunk.data async for chunk in attachment]) == b"hello"


@needs_root
async def test_a_user_that_is_allowed_and_not_there_is_named(pki: TestPki, tmp_path: Path) -> None:
    """It may have been there when the configuration was written."""
    async with running(pki, tmp_path, "[principals.alice]\nusers = ['no-such-user']\n") as (_, client):
        [(field, why)] = await refusal(client, user="no-such-user")
        assert (field, why) == ("spec.user", "there is no user 'no-such-user' here")


@needs_root
async def test_a_group_is_one_of_the_users_own(pki: TestPki, tmp_path: Path) -> None:
    """Any other is refused, unless it is configured; the primary group gives way to it."""
    foreign = stranger_to("nobody")
    async with running(pki, tmp_path, "", "--job-user", "nobody") as (_, client):
        [(field, why)] = await refusal(client, group=foreign)
        assert (field, why) == ("spec.group", f"{foreign!a} is no group of nobody, and alice may use no other")
        assert [name for name, _ in await refusal(client, group="no-such-group")] == ["spec.group"]
        own = group_name(NOBODY.pw_gid)
        job, text = await said(client, "id -gn", group=own)
        assert (job.spec.group, text) == (own, f"{own}\n")
    text = f"job-user = 'nobody'\n[principals.alice]\ngroups = ['{foreign}']\n"
    async with running(pki, tmp_path / "other", text) as (_, client):
        assert (await said(client, "id -gn", group=foreign))[1] == f"{foreign}\n"


@needs_root
async def test_a_job_that_waits_runs_as_whom_it_was_taken_for(pki: TestPki, tmp_path: Path) -> None:
    """After a kill of the server too; a request that is sent again is the same job."""
    gate = tmp_path / "gate"
    async with running(pki, tmp_path, "job-user = 'nobody'\nslots = 1\n") as (jobd, client):
        await client.start(["sh", "-c", f"until test -e {gate.parent}/gate; do sleep 0.01; done"], cwd="/")
        waiting = await client.start(["id", "-u"], request_id="r-1")
        assert (waiting.state, waiting.spec.user) == (JobState.PENDING, "nobody")
        jobd.kill_server()
        assert (await client.start(["id", "-u"], request_id="r-1")).id == waiting.id
        assert (await client.start(["id", "-u"], request_id="r-1", user="nobody")).id == waiting.id
        [first] = [job async for job in client.list(states=[JobState.RUNNING])]
        await client.stop(first.id, grace=0)
        async with client.stream(waiting.id) as output:
            assert [chunk.data async for chunk in output] == [f"{NOBODY.pw_uid}\n".encode()]


@needs_root
async def test_jobs_of_other_users_are_stopped_and_accounted_for_as_all(pki: TestPki, tmp_path: Path) -> None:
    """The receipt has every process."""
    async with running(pki, tmp_path, "", "--job-user", "nobody") as (_, client):
        job = await client.start(["sh", "-c", "setsid sleep 1000 & echo ready; exec sleep 1000"])
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
        stopped = await client.stop(job.id)
        assert stopped.state == JobState.STOPPED
        assert stopped.stop_receipt is not None
        assert (stopped.stop_receipt.found, stopped.stop_receipt.empty) == (2, True)


# ---- the mask


@pytest.mark.parametrize(("mask", "mode"), [(None, "644"), (0, "666"), (0o077, "600"), (0o777, "0")])
async def test_files_are_made_with_the_jobs_umask(
    connect: Connect, tmp_path: Path, mask: int | None, mode: str
) -> None:
    """022 if it does not say, whatever jobd's own is."""
    old = os.umask(0o027)
    try:
        async with connect() as client:
            job, text = await said(client, f"touch {tmp_path}/made; stat -c %a {tmp_path}/made", umask=mask)
    finally:
        os.umask(old)
    assert (job.spec.umask, text) == (mask, f"{mode}\n")


# ---- what cannot be


async def test_what_no_account_can_be_called_is_refused_by_field(connect: Connect) -> None:
    """And a mask that is none."""
    async with connect() as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.start(["true"], user="a\0b", group="g" * 257, umask=0o1000)
        assert [each.field for each in caught.value.violations] == ["spec.user", "spec.group", "spec.umask"]
        assert await refusal(client, user="no-such-user") == [
            ("spec.user", f"is 'no-such-user', and alice may run jobs as {OWN.pw_name}")
        ]


async def test_another_user_under_the_same_request_id_is_another_request(connect: Connect) -> None:
    """As any other difference."""
    async with connect() as client:
        job = await client.start(["true"], request_id="mine")
        assert job.spec.user == OWN.pw_name
        assert (await client.start(["true"], request_id="mine", user=OWN.pw_name)).id == job.id
        with pytest.raises(AlreadyExistsError, match="with a different umask"):
            await client.start(["true"], request_id="mine", umask=0)


@needs_not_root
async def test_only_root_can_become_somebody_else(pki: TestPki, tmp_path: Path) -> None:
    """A request is refused; a job user stops jobd at its start."""
    async with running(pki, tmp_path, "[roles.writer]\nusers = ['daemon']\n") as (_, client):
        [(field, why)] = await refusal(client, user="daemon")
        assert field == "spec.user"
        assert "does not run as root" in why
    with (
        pytest.raises(AssertionError, match="jobd has to run as root"),
        jobd_program(pki, tmp_path / "other", "--job-user", "daemon"),
    ):
        pass


def test_a_job_user_that_is_not_there_stops_jobd_at_its_start(pki: TestPki, tmp_path: Path) -> None:
    """With its name."""
    with (
        pytest.raises(AssertionError, match="--job-user: there is no user 'no-such-user' here"),
        jobd_program(pki, tmp_path / "state", "--job-user", "no-such-user"),
    ):
        pass
