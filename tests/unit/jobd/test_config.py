"""Where settings come from, and what they may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.errors import ConfigError
from jobd.config import load
from jobd.quota import UNLIMITED, Quota, QuotaPolicy
from jobd.worker.containment import Limits
from jobd.worker.policy import Bounds, LimitPolicy
from jobd.worker.run_as import Accounts, RunAsPolicy

FILES = {"cert": "c", "key": "k", "ca": "a", "state": "s"}


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """And the file over the default."""
    file = tmp_path / "jobd.toml"
    file.write_text('slots = 3\nworkers = 4\nmax-pending = 5\nlisten = "127.0.0.1:1"\n')
    config = load({**FILES, "slots": "1"}, {"JOBD_SLOTS": "2", "JOBD_WORKERS": "7"}, file)
    assert (config.slots, config.workers, config.max_pending, config.grace) == (1, 7, 5, 10.0)
    assert config.state == Path("s")


@pytest.mark.parametrize(
    ("name", "value", "other", "fits"),
    [
        ("crl_policy", "hard-fail", "crl", "list.crl"),
        ("crl_policy", "soft-fail", "crl", "list.crl"),
        ("metrics_interval", "15", "metrics_file", "jobd.prom"),
        ("metrics_anywhere", "yes", "metrics", "127.0.0.1:0"),
        ("worker", "no", "pool", "etcd://localhost:1"),
        ("pool_keep", "15", "pool", "etcd://localhost:1"),
        ("labels", "gpu=a100", "pool", "etcd://localhost:1"),
    ],
)
def test_what_says_nothing_without_another_is_refused(
    tmp_path: Path, name: str, value: str, other: str, fits: str
) -> None:
    """Whoever said it, also when it is what holds by default: nobody is checked, and nothing written. A default is said
    by nobody, and the other one may come from elsewhere."""
    key, variable, missing = name.replace("_", "-"), f"JOBD_{name.upper()}", f"there is no --{other.replace('_', '-')}"
    file = tmp_path / "jobd.toml"
    file.write_text(f"{key} = {value if value.isdigit() else repr(value)}\n")
    for flags, environment, said in (
        ({name: value}, {variable: value}, f"^--{key}: {missing}$"),
        ({}, {variable: value}, f"^{variable}: {missing}$"),
        ({}, {}, f"^{file}:1: {key}: {missing}$"),
    ):
        with pytest.raises(ConfigError, match=said):
            load({**FILES, **flags}, environment, file)
    assert str(getattr(load({**FILES, other: fits}, {}, file), other)) == fits
    load(FILES, {}, None)


def test_what_is_so_anyway_may_be_said() -> None:
    """Nobody believes that something is done."""
    config = load({**FILES, "worker": True, "metrics_anywhere": False}, {}, None)
    assert (config.worker, config.metrics_anywhere) == (True, False)
    with pytest.raises(ConfigError, match=r"^--no-worker: there is no --pool$"):
        load({**FILES, "worker": False}, {}, None)


def test_what_is_missing_is_named() -> None:
    """All of it at once, as flags."""
    with pytest.raises(ConfigError, match="--cert, --key, --ca, --state"):
        load({}, {}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = ", "is not TOML"),
        ("slot = 3", "no setting 'slot'; did you mean slots"),
        ("max_pending = 3", "no setting 'max_pending'; did you mean max-pending"),
        ('slots = "many"', "jobd.toml:1: slots: 'many' is not a whole number"),
        ("slots = 1.5", "1.5 is not a whole number"),
        ("slots = true", "True is not a whole number"),
        ("slots = 0", "0 is not between 1 and"),
        ("grace = -1", "-1 is not between 0 and"),
        ("grace = nan", "nan is not between 0 and"),
        ("cert = 5", "5 is not a path"),
        ('log-level = "loud"', "'loud' is not one of debug, info, warning, error"),
        ("[table]\nx = 1", "no setting 'table'"),
        ("[limits]\nmemry = 1", r"\[limits\]: there is no limit 'memry'; did you mean memory"),
        ("[limits]\nopen_files = 7", r"\[limits\]: there is no limit 'open_files'; did you mean open-files"),
        ("[limits]\nmemory = '1X'", r"\[limits\]: memory is '1X', which is no size"),
        ("[limits]\nprocesses = 1.5", r"\[limits\]: processes is 1.5, and not between 1 and"),
        ("[limits]\ntimeout = true", r"\[limits\]: timeout is True, which is no number"),
        ("[limits]\nstop-at-output = 1", r"\[limits\]: stop-at-output is 1, and neither true nor false"),
        ("[limits.max]\nnice = 20", r"\[limits.max\]: nice is 20, and not between 0 and 19"),
        ("[limits]\nio-class = 'real-time'", r"\[limits\]: io-class is 'real-time', and not one of idle, best-effort"),
        ("[limits.max]\nio-class = 1", r"\[limits.max\]: io-class is 1, and not one of idle, best-effort"),
        ("limits = 5", r"\[limits\] is not a table"),
        ("[limits]\nmax = 5", r"\[limits\]: max is not a table"),
        ("principals = 5", "principals is not a table"),
        ("[principals.alice]\nmemory = 5", r"\[principals.alice\] has 'memory', and can have limits, users, groups"),
        ("[principals]\nalice = 5", r"\[principals.alice\] is not a table"),
        ("[principals.alice]\nusers = 'root'", r"\[principals.alice\]: users is 'root', and not a list of names"),
        ("[principals.alice]\ngroups = ['']", r"\[principals.alice\]: groups is \[''\], and not a list of names"),
        ("[roles.boss]\nusers = []", r"\[roles.boss\]: the roles are reader and writer"),
        ("[roles.reader]\nusers = []", r"\[roles.reader\]: the role that starts jobs is writer"),
        ("quota = 5", r"\[quota\] is not a table"),
        ("[quota]\njob = 5", r"\[quota\]: there is no quota 'job'; did you mean jobs"),
        ("[quota]\ncalls_per_second = 5", r"\[quota\]: there is no quota 'calls_per_second'; did you mean calls-per-"),
        ("[quota]\njobs = 1.5", r"\[quota\]: jobs is 1.5, and neither a whole number nor 'unlimited'"),
        ("[quota]\nstreams = -1", r"\[quota\]: streams is -1, and not between 1 and"),
        ("[quota]\nstreams = 'all'", r"\[quota\]: streams is 'all', and neither a whole number nor 'unlimited'"),
        ("[quota]\ncalls-per-second = 0", r"\[quota\]: calls-per-second is 0, and not between 0.01 and"),
        ("[quota]\ncalls-per-second = nan", r"\[quota\]: calls-per-second is nan, and not between"),
        ("[quota]\ncalls-per-second = []", r"\[quota\]: calls-per-second is \[\], and neither a number nor 'unli"),
        ("[roles.reader.quota]\nx = 1", r"\[roles.reader.quota\]: there is no quota 'x'"),
        ("[principals.alice]\nquota = 7", r"\[principals.alice.quota\] is not a table"),
        ("[roles.reader.limits]\nmemory = 1", r"\[roles.reader\]: the role that starts jobs is writer"),
        ("[principals.alice.limits]\nx = 5", r"\[principals.alice.limits\]: there is no limit 'x'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    """And with the nearest name that there is."""
    see_that_it_is_refused(tmp_path / "jobd.toml", text, message)


def see_that_it_is_refused(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(FILES, {}, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = 3\n\n# slot = 3\nslot = 3", r":4: there is no setting 'slot'; did you mean slots\?$"),
        ("# a\nslots = 3\nlimit = 5\n", ":3: there is no setting 'limit'; did you mean limits"),
        ("labels = '''\nslots = 1\n'''\nslots = 'x'\ngrace = 3", ":4: slots: 'x' is not a whole number"),
        ("cert = 'a'\nlog-level = 'wrning'", ":2: log-level: 'wrning' is not one of .*; did you mean warning"),
        ("containment = 'cgroups'", ":1: containment: .*; did you mean cgroup"),
        ("\n\n[limits]\n\nmemory = '1G'\nmemry = 2", r":6: \[limits\]: there is no limit 'memry'; did you mean memory"),
        ("[limits]\nmax.nice = 3\nmax.memry = 3", r":3: \[limits.max\]: there is no limit 'memry'"),
        ("[limits]\nio-class = 'idel'", r":2: \[limits\]: .*; did you mean idle"),
        ("[limits]\nnice = 1\n[roles.wirter]\nusers = []", r":3: \[roles.wirter\]: .*; did you mean writer"),
        ("[roles]\nreadr = {quota = {jobs = 1}}", r":2: \[roles.readr\]: .*; did you mean reader"),
        ("[principals.alice]\n# none\nuser = []", r":3: \[principals.alice\] has 'user'.*; did you mean users"),
        ("[principals.alice]\nusers = [\n'a',\n'']", r":2: \[principals.alice\]: users is "),
        ("[principals.a]\nusers = []\n[principals.b]\nusers = 7", r":4: \[principals.b\]: users is 7"),
        ("slots = 3\n[roles.reader]\nquota.jobs = 1\nusers = []", r":4: \[roles.reader\]: the role that starts"),
        ("slots = 3\n\nquota = 5", r":3: \[quota\] is not a table"),
        ("slots = 3\nslots = 4", r"is not TOML: .*line 2"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    """And the nearest name, wherever it stands."""
    see_that_it_is_refused(tmp_path / "jobd.toml", text, message)


def test_the_line_is_found_in_a_long_file(tmp_path: Path) -> None:
    """Soon."""
    file = tmp_path / "jobd.toml"
    tables = [f"[principals.p{number}.quota]\njobs = {number + 1}\n" for number in range(2000)]
    file.write_text("".join([*tables, "job = 1\n"]))
    with pytest.raises(ConfigError, match=r":4001: \[principals.p1999.quota\]: there is no quota 'job'"):
        load(FILES, {}, file)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("JOBD_SLOTZ", "JOBD_SLOTS"), ("JOBD_MAXPENDING", "JOBD_MAX_PENDING"), ("JOBD_CERTS", "JOBD_CERT")],
)
def test_a_variable_that_is_nearly_a_setting_is_refused(variable: str, meant: str) -> None:
    """By its name, with the one that was meant: it would do nothing. What is none of ours is let be."""
    with pytest.raises(ConfigError, match=f"^{variable}: there is no such setting; did you mean {meant}\\?$"):
        load(FILES, {variable: "1"}, None)
    load(FILES, {variable: ""}, None)
    others = ("JOBD_PORT", "JOBD_SERVICE_HOST", "JOBD_PORT_50051_TCP_ADDR", "JOBD_JOB_ID", "JOBD_CONFIG", "SLOTZ")
    load(FILES, dict.fromkeys(others, "x"), None)


def test_a_wrong_variable_and_a_wrong_flag_are_named(tmp_path: Path) -> None:
    """By the name under which they were given."""
    with pytest.raises(ConfigError, match="JOBD_SLOTS: 'x'"):
        load(FILES, {"JOBD_SLOTS": "x"}, None)
    with pytest.raises(ConfigError, match="--max-pending: 'x'"):
        load({**FILES, "max_pending": "x"}, {}, None)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With what the system says."""
    with pytest.raises(ConfigError, match="No such file"):
        load(FILES, {}, tmp_path / "none.toml")


def test_limits_stand_in_the_file(tmp_path: Path) -> None:
    """For everyone and, over that, for some; sizes as people write them."""
    file = tmp_path / "jobd.toml"
    file.write_text(
        "[limits]\nmemory = '1G'\ntimeout = 3600\nio-class = 'idle'\n"
        "[limits.max]\nmemory = '2G'\nopen-files = 1000\nio-class = 'best-effort'\n"
        "[principals.alice.limits.max]\nmemory = '4g'\n[roles.writer.limits.max]\nnice = 10\n"
    )
    policy = load(FILES, {}, file).limits
    ceiling = Limits(memory=2**31, open_files=1000, io_class=2)
    assert policy.everyone == Bounds(Limits(memory=2**30, timeout=3600.0, io_class=1), ceiling)
    assert policy.principals["alice"] == Bounds(Limits(), Limits(memory=2**32))
    assert policy.roles["writer"] == Bounds(Limits(), Limits(nice=10))
    assert load(FILES, {}, None).limits == LimitPolicy()


def test_who_may_run_jobs_as_whom_stands_in_the_file(tmp_path: Path) -> None:
    """For roles and principals; the job user is a setting like others."""
    file = tmp_path / "jobd.toml"
    file.write_text(
        "job-user = 'nobody'\n[roles.writer]\nusers = ['nobody', 'daemon']\n[principals.alice]\ngroups = ['adm']\n"
    )
    policy = load(FILES, {}, file).run_as
    assert policy.job_user == "nobody"
    assert policy.roles == {"writer": Accounts(frozenset({"nobody", "daemon"}))}
    assert policy.principals == {"alice": Accounts(groups=frozenset({"adm"}))}
    assert load(FILES, {"JOBD_JOB_USER": "daemon"}, None).run_as == RunAsPolicy("daemon")


def test_quotas_stand_in_the_file(tmp_path: Path) -> None:
    """For everyone and, over that, for some; readers have them too."""
    file = tmp_path / "jobd.toml"
    file.write_text(
        "[quota]\ncalls-per-second = 2.5\nstreams = 'unlimited'\n"
        "[roles.reader.quota]\ncalls-per-second = 1\n[principals.alice.quota]\njobs = 3\n"
    )
    policy = load(FILES, {}, file).quota
    assert policy.everyone == Quota(calls_per_second=2.5, streams=UNLIMITED)
    assert policy.roles == {"reader": Quota(calls_per_second=1)}
    assert policy.principals == {"alice": Quota(jobs=3)}
    assert load(FILES, {}, None).quota == QuotaPolicy()
