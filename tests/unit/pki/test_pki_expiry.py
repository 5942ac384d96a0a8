"""What ends soon, for cron: quiet with 0, or a line each and 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Jobpki


@pytest.fixture
def week(pki_dir: Path, jobpki: Jobpki) -> Path:
    """The certificate of a client, good for a week."""
    jobpki("client", pki_dir, "alice", "--no-role", "--days", "7")
    return pki_dir / "alice.crt"


@pytest.mark.parametrize(
    ("time", "code"), [("8d", 3), ("6d", 0), ("1w", 3), ("2w", 3), ("169h", 3), ("100h", 0), ("0d", 0)]
)
def test_within_a_time(week: Path, jobpki: Jobpki, time: str, code: int) -> None:
    """show and list exit with 3 if something ends within the time, and print it; else with 0, and print nothing."""
    for argv in (("show", week), ("list", week.parent)):
        result = jobpki(*argv, "--expires-within", time)
        assert (result.code, result.err) == (code, "")
        assert result.out.count("\n") == (1 if code else 0)


def test_only_those_that_end(week: Path, pki_dir: Path, jobpki: Jobpki) -> None:
    """Of many files those are named that end."""
    result = jobpki("show", pki_dir / "ca.crt", week, "--expires-within", "14d")
    assert result.code == 3
    assert result.out.startswith(f"{week}: certificate of alice: valid, until ")
    [line] = jobpki("show", pki_dir / "ca.crt", week, "--expires-within", "14d", "--json").out.splitlines()
    facts = json.loads(line)
    assert (facts["file"], facts["state"], facts["days_left"]) == (str(week), "valid", 6)


def test_every_certificate_of_a_chain_counts(tmp_path: Path, jobpki: Jobpki) -> None:
    """A chain ends with the first of its certificates."""
    jobpki("init", tmp_path / "root", "--path-length", "1", "--days", "9")
    jobpki("init", tmp_path / "sub", "--signed-by", tmp_path / "root", "--days", "3")
    result = jobpki("show", tmp_path / "sub" / "ca.crt", "--expires-within", "14d")
    assert (result.code, result.out.count("\n")) == (3, 2)
    assert jobpki("show", tmp_path / "sub" / "ca.crt", "--expires-within", "4d").out.count("\n") == 1


def test_renewed_and_revoked_ones_are_quiet(week: Path, pki_dir: Path, jobpki: Jobpki) -> None:
    """list does not warn of what was renewed, or is revoked."""
    jobpki("renew", pki_dir, week, "--days", "60")
    assert jobpki("list", pki_dir, "--expires-within", "14d").code == 0
    jobpki("client", pki_dir, "bob", "--no-role", "--days", "7")
    jobpki("revoke", pki_dir, "--name", "bob")
    assert jobpki("list", pki_dir, "--expires-within", "14d").code == 0


def test_one_that_was_renewed_for_a_shorter_time_ends(pki_dir: Path, jobpki: Jobpki) -> None:
    """A certificate is renewed by a later one that ends no sooner: the older one, which lasts longer, is in no file any
    more. When that one ends too, it is the later one alone that it is renewed by."""
    jobpki("client", pki_dir, "alice", "--no-role", "--days", "60")
    jobpki("renew", pki_dir, pki_dir / "alice.crt", "--days", "5")
    result = jobpki("list", pki_dir, "--expires-within", "14d", "--json")
    assert result.code == 3
    shown = json.loads(jobpki("show", pki_dir / "alice.crt", "--json").out)
    assert [json.loads(line)["serial"] for line in result.out.splitlines()] == [shown["serial"]]
    jobpki("renew", pki_dir, pki_dir / "alice.crt", "--days", "9")
    [line] = jobpki("list", pki_dir, "--expires-within", "14d", "--json").out.splitlines()
    assert json.loads(line)["serial"] != shown["serial"]
    jobpki("renew", pki_dir, pki_dir / "alice.crt", "--days", "90")
    assert jobpki("list", pki_dir, "--expires-within", "14d").code == 0


def test_what_has_no_end(pki_dir: Path, week: Path, jobpki: Jobpki) -> None:
    """A key has no end: asking for it is a mistake, not a quiet no."""
    result = jobpki("show", pki_dir / "alice.key", "--expires-within", "14d")
    assert (result.code, result.out) == (1, "")
    assert "has no end" in result.err


@pytest.mark.parametrize("time", ["", "14", "d", "-1d", "1m", "1.5d", "99999999d", "36501d"])
def test_bad_times(week: Path, jobpki: Jobpki, time: str) -> None:
    """A time has a number and a unit."""
    assert jobpki("show", week, f"--expires-within={time}").code == 2


def test_several_files(week: Path, pki_dir: Path, jobpki: Jobpki) -> None:
    """show takes several files: a block each, or with --json an object a line that names its file."""
    assert "\n\nfile: " in jobpki("show", pki_dir / "ca.crt", week).out
    objects = [json.loads(line) for line in jobpki("show", pki_dir / "ca.crt", week, "--json").out.splitlines()]
    assert [facts["file"] for facts in objects] == [f"{pki_dir}/ca.crt", str(week)]


def test_list(week: Path, pki_dir: Path, jobpki: Jobpki) -> None:
    """list has a line for each certificate, escaped; with --json an object a line, with the names of the index."""
    jobpki("server", pki_dir, "--host", "localhost")
    lines = jobpki("list", pki_dir).out.splitlines()
    assert [line.split("  ")[2:] for line in lines] == [["client", "valid", "alice"], ["server", "valid", "localhost"]]
    entry = json.loads(jobpki("list", pki_dir, "--json").out.splitlines()[0])
    names = "serial name subject profile valid_from valid_until fingerprint_sha256 revoked_at reason state days_left"
    assert list(entry) == names.split()
    assert entry["fingerprint_sha256"] == json.loads(jobpki("show", week, "--json").out)["fingerprint_sha256"]
