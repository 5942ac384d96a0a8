"""``jobd check``: what it says of settings and of a machine, and that it changes neither."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from tests.support.accounts import NOBODY, needs_root, room, unprivileged
from tests.support.daemon import ROOT, jobd_program
from tests.support.pki import TestPki
from tests.support.program import SECONDS, clean_environment
from tests.support.records import make_store

Said = dict[str, list[tuple[str, str]]]


def check(
    pki: TestPki,
    state: Path,
    *flags: str,
    code: int = 0,
    home: Path | None = None,
    python: Path = Path(sys.executable),
    path: Sequence[Path] = (),
) -> Said:
    """What is said about each thing: verdict and words."""
    settings = {"state": state, "listen": "127.0.0.1:0", **pki.server()}
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [python, "-m", "jobd", "check", "--json", *arguments, *flags],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=clean_environment(home or state.parent) | ({"PYTHONPATH": os.pathsep.join(map(str, path))} if path else {}),
    )
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    said: Said = {}
    for line in done.stdout.splitlines():
        finding = json.loads(line)
        said.setdefault(finding["about"], []).append((finding["verdict"], finding["says"]))
    return said


def everything_in(directory: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change."""
    found = sorted(directory.rglob("*"))
    return [(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in found]


def test_a_plain_set_up_is_good_and_nothing_is_changed(pki: TestPki, tmp_path: Path) -> None:
    """Each thing that was looked at is named; what is weaker than it could be is said to be, and is no error."""
    state = make_store(tmp_path / "state", 3)
    before = everything_in(tmp_path)
    said = check(pki, state)
    assert everything_in(tmp_path) == before
    assert {"certificates", "revocation", "address", "state", "records", "output", "disk"} < said.keys()
    assert {"control groups", "isolation", "kernel", "clock", "descriptors"} < said.keys()
    assert said["records"] == [("good", f"{state / 'jobs.sqlite3'} is sound")]
    assert said["revocation"][0][0] == "weak"
    assert not [each for found in said.values() for each in found if each[0] == "wrong"]


def test_a_state_directory_that_is_not_there_is_not_made(pki: TestPki, tmp_path: Path) -> None:
    """Nor are those above it."""
    said = check(pki, tmp_path / "a" / "b")
    assert said["state"] == [("good", f"{tmp_path / 'a' / 'b'} is not there, and will be made in {tmp_path}")]
    assert not (tmp_path / "a").exists()


def test_a_jobd_that_runs_is_not_disturbed(pki: TestPki, tmp_path: Path) -> None:
    """Its address and its state directory are in use, by it: that is as it should be."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        port = jobd.server.rsplit(":", 1)[1]
        said = check(pki, tmp_path / "state", "--listen", f"127.0.0.1:{port}")
        assert said["address"] == [("untried", f"127.0.0.1:{port} was not tried: a jobd is running")]
        assert said["state"] == [("good", f"{tmp_path / 'state'} is used by a jobd now")]
        assert jobd.process.poll() is None
        said = check(pki, tmp_path / "other", "--listen", f"127.0.0.1:{port}", code=1)
        assert said["address"][0][0] == "wrong"
        assert "Address already in use" in said["address"][0][1]
        assert "jobd-check" not in jobd.log.read_text()


def test_beside_a_jobd_that_runs_an_address_that_can_be_none_is_wrong(pki: TestPki, tmp_path: Path) -> None:
    """What takes no socket to know is known all the same; the rest is neither wrong nor approved."""
    with jobd_program(pki, tmp_path / "state"):
        flags = ("--listen", "127.0.0.1:22222222", "--metrics", "0.0.0.0:9464")
        said = check(pki, tmp_path / "state", *flags, code=1)
        assert [verdict for verdict, _ in said["address"] + said["metrics"]] == ["wrong", "wrong"]
        assert "others can reach that address" in said["metrics"][0][1]
        said = check(pki, tmp_path / "state", "--listen", "203.0.113.9:1", "--metrics", "127.0.0.1:9464")
        assert [verdict for verdict, _ in said["address"] + said["metrics"]] == ["untried", "untried"]


@needs_root
@pytest.mark.parametrize("jobs", ["nobody", "daemon"])
def test_a_launcher_of_root_is_not_disturbed_either(pki: TestPki, jobs: str) -> None:
    """Whomever it turns away it tells of; so nobody comes to it but root. Nor are addresses taken for somebody else's
    where the settings have users that cannot be."""
    with room() as place, jobd_program(pki, place / "state", "--user", "daemon", "--job-user", "nobody") as jobd:
        port = jobd.server.rsplit(":", 1)[1]
        flags = ("--listen", f"127.0.0.1:{port}", "--user", "daemon", "--job-user", jobs)
        said = check(pki, place / "state", *flags, code=int(jobs == "daemon"))
        assert [verdict for verdict, _ in said["address"]] == ["untried"]
        assert ("wrong" in dict(said["users"])) == (jobs == "daemon")
        if jobs == "nobody":
            assert said["state"] == [("good", f"{place / 'state'} is used by a jobd now")]
        assert "turned away" not in jobd.log.read_text()


@needs_root
def test_a_server_s_user_who_cannot_execute_the_interpreter_is_weak(pki: TestPki, tmp_path: Path) -> None:
    """Root can, and so can the server; but not who makes backups as that user."""
    with room() as place:
        python = place / "shut" / "python"
        python.parent.mkdir(0o700)
        python.symlink_to(sys.executable)
        flags = ("--user", "daemon", "--job-user", "nobody")
        path = (ROOT, Path(trio.__file__).parents[1])
        said = check(pki, place / "state", *flags, home=tmp_path, python=python, path=path)
        [weak] = [says for verdict, says in said["users"] if verdict == "weak"]
        assert weak.startswith(f"daemon cannot execute {python}: ")


def test_what_is_wrong_is_named(pki: TestPki, tmp_path: Path) -> None:
    """All of it, in one run; and it exits with 1."""
    state = make_store(tmp_path / "state", 3)
    with (state / "jobs.sqlite3").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 2000)
    state.chmod(0o755)
    said = check(pki, state, "--key", str(pki.credentials("alice")["key"]), code=1)
    wrong = {about: words for about, found in said.items() for verdict, words in found if verdict == "wrong"}
    assert wrong.keys() == {"certificates", "state", "records"}
    assert "does not belong to the certificate" in wrong["certificates"]
    assert f"others can enter {state}" in wrong["state"]
    assert "restore it from a backup" in wrong["records"]


def test_what_is_weak_is_told_with_the_reason(pki: TestPki, tmp_path: Path) -> None:
    """A key that others can read, a directory in memory, more connections than there are descriptors, users that are
    not there; and what is wrong. Each with the line of the file, if it is said in one."""
    key = tmp_path / "server.key"
    shutil.copy(pki.server()["key"], key)
    key.chmod(0o644)
    config = tmp_path / "jobd.toml"
    config.touch()
    config.chmod(0o666)
    pool = 'pool = "etcd://127.0.0.1:1"\nworker-name = "localhost"\n'
    config.write_text(f'metrics = "0.0.0.0:9464"\n{pool}[principals.alice]\nusers = ["nobody-of-that-name"]\n')
    said = check(
        pki,
        Path("/dev/shm/jobd-check-test"),
        "--key",
        str(key),
        "--connections",
        "100000000",
        "--config",
        str(config),
        home=tmp_path,
        code=1,
    )
    weak = [(about, words) for about, found in said.items() for verdict, words in found if verdict == "weak"]
    text = "\n".join(f"{about}: {words}" for about, words in weak)
    assert f"settings: everybody can write {config}, and so say whom jobs run as: chmod go-w it" in text
    assert f"private keys: others than its owner can read the private key {key}" in text
    assert "disk: /dev/shm is in memory (tmpfs)" in text
    assert "descriptors: --connections and --slots may take 100000512" in text
    missing = "users: [principals.alice]: there is no user 'nobody-of-that-name' here"
    assert f"{missing}; jobs that ask for it are not started ({config}:4: [principals.alice])" in text
    [(verdict, others)] = said["metrics"]
    assert verdict == "wrong"
    assert others.endswith(f"({config}:1: metrics)"), "where it is said"
    pooled = f"--pool: --advertise is needed too: where the other machines reach this one ({config}:2: pool)"
    assert said["pool"] == [("wrong", pooled)]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--slots", "0"), "--slots: '0' is not between 1 and"),
        (("--cert=c", "--key=k", "--ca=a", "--state=s", "--crl-policy=hard-fail"), "--crl-policy: there is no --crl"),
    ],
    ids=["a value", "a contradiction"],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path: Path, flags: tuple[str, ...], why: str) -> None:
    """As by jobd itself, and with its exit code."""
    command = [sys.executable, "-m", "jobd", "check", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, env=clean_environment(tmp_path)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"jobd check: {why}")


@needs_root
def test_a_state_directory_of_the_servers_user_is_looked_at_as_that_user(pki: TestPki, tmp_path: Path) -> None:
    """As root nothing in it is touched: whoever had taken over an earlier server could have put anything there."""
    with room() as place:
        state = make_store(place / "state", 1)
        (state / "jobs.sqlite3").rename(place / "of-root")
        (state / "jobs.sqlite3").symlink_to(place / "of-root")
        os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
        said = check(pki, state, "--user", "nobody", "--job-user", "daemon", code=1, home=tmp_path)
    assert said["users"][0] == ("good", f"the server becomes nobody (uid {NOBODY.pw_uid}), and has no privileges then")
    assert [verdict for verdict, _ in said["records"]] == ["wrong"]


def test_what_an_operator_is_told_by_is_looked_at(pki: TestPki, tmp_path: Path) -> None:
    """Addresses and files of metrics and audit: those that will be made are not made."""
    settings = {"metrics": "127.0.0.1:0", "metrics-file": tmp_path / "jobd.prom", "audit-log": tmp_path / "audit.jsonl"}
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    before = everything_in(tmp_path)
    said = check(pki, tmp_path / "state", *flags)
    assert everything_in(tmp_path) == before
    assert said["metrics"] == [
        ("good", "127.0.0.1:0 is free"),
        ("good", f"{tmp_path / 'jobd.prom'} is written every 15 s"),
    ]
    assert said["audit log"] == [("good", f"{tmp_path / 'audit.jsonl'} will be made")]
    said = check(pki, tmp_path / "state")
    assert (said["metrics"][0][0], said["audit log"][0][0]) == ("weak", "weak")
    (tmp_path / "audit.jsonl").write_text("something else\n")
    wrong = ("--metrics", "0.0.0.0:0", "--metrics-file", str(tmp_path / "x" / "y"))
    said = check(pki, tmp_path / "state", *wrong, "--audit-log", str(tmp_path / "audit.jsonl"), code=1)
    assert [verdict for verdict, _ in said["metrics"]] == ["wrong", "wrong"]
    assert said["audit log"][0][0] == "wrong"
    assert "is not an audit log of jobd" in said["audit log"][0][1]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.touch(0o600),
        lambda path: path.symlink_to("nothing"),
        lambda path: path.symlink_to(path.name),
        lambda path: (path.mkdir(0o700), (path / "lock").mkdir()),
    ],
    ids=["a file", "a link to nothing", "a link to itself", "its lock is a directory"],
)
def test_what_jobd_refuses_is_wrong(pki: TestPki, tmp_path: Path, make: Callable[[Path], object]) -> None:
    """Whatever stands where the state directory is to be."""
    make(tmp_path / "state")
    assert [verdict for verdict, _ in check(pki, tmp_path / "state", code=1)["state"]] == ["wrong"]


def test_a_name_that_no_host_can_have_is_wrong(pki: TestPki, tmp_path: Path) -> None:
    """For either address; the rest is looked at all the same."""
    said = check(pki, tmp_path / "state", "--listen", "a..b:1", "--metrics", f"{'x' * 70}:1", code=1)
    assert [verdict for verdict, _ in said["address"]] == ["wrong"]
    assert [verdict for verdict, _ in said["metrics"]] == ["wrong"]
    assert "kernel" in said


@needs_root
def test_what_the_servers_user_cannot_write_is_wrong(pki: TestPki, tmp_path: Path) -> None:
    """Though root, who looks, can; a state directory that is not there is made by root."""
    user = ("--user", "nobody", "--job-user", "daemon")
    with room() as place:
        (place / "audit.jsonl").touch(0o600)
        (place / "shut").mkdir(0o700)
        os.chown(place / "shut", NOBODY.pw_uid, NOBODY.pw_gid)
        (place / "shut" / "state").mkdir(0o500)
        os.chown(place / "shut" / "state", NOBODY.pw_uid, NOBODY.pw_gid)
        flags = (*user, "--audit-log", str(place / "audit.jsonl"))
        said = check(pki, place / "shut" / "state", *flags, code=1, home=tmp_path)
        assert [verdict for verdict, _ in said["state"]] == ["wrong"]
        assert [verdict for verdict, _ in said["audit log"]] == ["wrong"]
        said = check(pki, place / "state", *user, "--audit-log", str(place / "new.jsonl"), code=1, home=tmp_path)
        assert [verdict for verdict, _ in said["state"]] == ["good"]
        new = place / "new.jsonl"
        assert said["audit log"] == [("wrong", f"{new} cannot be made: nobody may not write in {place}")]
        assert check(pki, place / "shut" / "new", *user, code=1, home=tmp_path)["state"][0][0] == "wrong"


def test_what_cannot_be_looked_at_is_said_and_the_rest_is_looked_at(pki: TestPki, tmp_path: Path) -> None:
    """A directory that one may not enter ends nothing."""
    with unprivileged(pki, tmp_path) as who:
        shut = who.directory / "shut"
        shut.mkdir(0o700)
        shut.chmod(0)
        if os.geteuid() == 0:
            os.chown(shut, NOBODY.pw_uid, NOBODY.pw_gid)
        settings = {"state": shut / "a" / "b", "listen": "127.0.0.1:0", **who.pki.server()}
        arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        environment = clean_environment(who.directory)
        if "path" in who.settings:
            environment |= {"PYTHONPATH": os.pathsep.join(map(str, who.settings["path"]))}
        done = subprocess.run(
            [who.settings.get("python", sys.executable), "-m", "jobd", "check", "--json", *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd="/",
            env=environment,
            **who.settings.get("identity", {}),
        )
        shut.chmod(0o700)
    assert (done.returncode, done.stderr) == (1, "")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["verdict"] for each in said if each["about"] == "state"] == ["wrong"]
    assert {"disk", "kernel", "descriptors"} <= {each["about"] for each in said}
