"""What a machine of a pool is started with, and what it cannot be started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from api.errors import ConfigError
from jobd.daemon import run
from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.endpoints import Endpoint
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.transaction import Put, Txn
from jobd.server import _expected
from tests.support.daemon import config_for, running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool import Pool


async def refusal(pki: TestPki, state: Path, settings: dict[str, Any]) -> str:
    """What is said against these settings, in one line, as the program ends with code 2; nothing was started."""
    with trio.fail_after(patient(20)):
        with pytest.raises((ConfigError, BaseExceptionGroup)) as caught:
            await run(config_for(pki, state, **settings))
    error: BaseException = caught.value
    if isinstance(error, BaseExceptionGroup):
        error = _expected(error)
    assert isinstance(error, ConfigError)
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pool": "http://127.0.0.1:2379"}, "etcd://"),
        ({"pool_cert": None}, "give --pool-cert, --pool-key and --pool-ca"),
        ({"pool_prefix": "a/b"}, "is not a pool's prefix"),
        ({"advertise": ""}, "--advertise is needed too"),
        ({"advertise": "m1"}, "'m1' is not an address"),
        ({"broker_cert": None}, "--broker-cert and --broker-key are needed too"),
        ({"worker_name": "other"}, "does not name 'other': have it made with --host other"),
        ({"worker_name": "-"}, "is not a worker's name"),
        ({"labels": "gpu"}, "--labels: 'gpu': it is not of the form K=V"),
        ({"labels": "a=1,=2"}, "--labels: '=2': a label's name has 1 to 63"),
    ],
)
async def test_what_cannot_be_used_is_said_before_anything_is_begun(
    pool: Pool, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """With the setting, and what to do."""
    settings = {**pool.settings("m1"), **changes}
    assert told in await refusal(pool.pki, tmp_path / "state", settings)


@pytest.mark.parametrize("text", ["", "ab" * 31, "xy" * 32])
async def test_keys_for_secrets_are_keys(pool: Pool, tmp_path: Path, text: str) -> None:
    """None is taken for one that is not whole."""
    (tmp_path / "keys").write_text(text)
    settings = pool.settings("m1", pool_secrets=tmp_path / "keys")
    assert "is no list of keys, 64 hexadecimal digits each" in await refusal(pool.pki, tmp_path / "state", settings)


async def test_a_prefix_that_is_somebody_else_s_is_left_alone(pool: Pool, tmp_path: Path) -> None:
    """Nothing is written there."""
    key = f"/{pool.prefix}/theirs".encode()
    async with open_client(pool.etcd.etcd) as client:
        await client.txn(Txn((), (Put(key, b"1"),)))
        told = await refusal(pool.pki, tmp_path / "state", pool.settings("m1"))
        found = (await client.page(f"/{pool.prefix}/".encode())).found
    assert "that is no pool of jobd; give another prefix" in told
    assert [each.key for each in found] == [key]


@pytest.mark.parametrize("wrong", ["speech", "ca", "certificate"])
async def test_an_etcd_that_is_none_of_ours_is_said(pool: Pool, tmp_path: Path, wrong: str) -> None:
    """By its address, and with what to look at: a port where something else is spoken, another CA, a certificate that
    it does not take."""
    [member] = pool.etcd.members
    settings, at = pool.settings("m1"), str(member.endpoint)
    match wrong:
        case "speech":
            peers = Endpoint(member.endpoint.host, member.endpoint.port + 1)
            settings["pool"], at, told = f"etcd://{peers}", str(peers), "is it its client port, with TLS?"
        case "ca":
            settings["pool_ca"], told = pool.pki.ca, "check --pool-ca"
        case "certificate":
            settings |= {"pool_cert": pool.pki.certificate("alice"), "pool_key": pool.pki.key("alice")}
            told = "its --trusted-ca-file, our --pool-cert"
    said = await refusal(pool.pki, tmp_path / "state", settings)
    assert said.startswith("--pool: ")
    assert at in said
    assert told in said


async def test_an_etcd_where_nobody_answers_is_said_and_waited_for(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_guard: list[EventDict]
) -> None:
    """The machine's own jobs go on meanwhile."""
    monkeypatch.setattr("jobd.pooled.FIRST", 0.1)
    async with running_daemon(pool.pki, tmp_path / "state", **pool.settings("m1", pool="etcd://127.0.0.1:1")):
        pass
    said = [each["error"] for each in log_guard if each["event"] == "the pool cannot be reached"]
    assert said == ["nobody answers at 127.0.0.1:1: Connection refused"]


async def test_a_pool_of_a_newer_jobd_is_left_alone(pool: Pool, tmp_path: Path) -> None:
    """It is said which one it is, and nothing is written there."""
    key = Keys(pool.prefix).schema
    async with open_client(pool.etcd.etcd) as client:
        await client.txn(Txn((), (Put(key, b'{"schema":2}'),)))
        told = await refusal(pool.pki, tmp_path / "state", pool.settings("m1"))
        found = (await client.page(f"/{pool.prefix}/".encode())).found
    assert "has schema 2, and this jobd knows 1; use the jobd that wrote it, or a newer one" in told
    assert [(each.key, each.value) for each in found] == [(key, b'{"schema":2}')]


async def test_a_name_is_that_of_one_machine(pool: Pool, tmp_path: Path) -> None:
    """The one that came first has it."""
    await pool.start("m1")
    settings = {**pool.settings("m2"), **{key: pool.settings("m1")[key] for key in ("worker_name", "cert", "key")}}
    assert "another machine of the pool has the name 'm1'" in await refusal(pool.pki, tmp_path / "state", settings)


async def test_secrets_reach_the_job_and_nobody_else(pool: Pool, tmp_path: Path) -> None:
    """Through etcd they go sealed; a pool without a key refuses them."""
    (tmp_path / "keys").write_text("ab" * 32 + "\n")
    await pool.start("m1", pool_secrets=tmp_path / "keys")
    async with pool.client() as client:
        job = await client.start(["sh", "-c", 'test "$TOKEN" = s3cret'], secrets={"TOKEN": "s3cret"})
        assert [each.exit_code for each in await client.wait(job.id)] == [0]
        assert (await client.query(job.id)).spec.secret_env == {"TOKEN": ""}
