"""The real ``jobcli`` against a daemon. What goes wrong on our side: 125 and one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.support.jobcli import NO_JOB, Jobcli, environment_for
from tests.support.pki import TestPki


async def test_no_contact_is_said(offline: Jobcli) -> None:
    """The address, and what to look for."""
    told = await offline.fails("--retry-for", "0", "list")
    assert told.startswith("nobody answers at localhost:1: ")
    assert told.endswith("is jobd running there?")


async def test_a_flag_of_the_connection_may_stand_after_the_verb(offline: Jobcli) -> None:
    """Before or after the verb, it is the same flag."""
    assert "localhost:2" in await offline.fails("list", "--server", "localhost:2", "--retry-for", "0")


async def test_a_lost_contact_is_tried_again_for_as_long_as_told(offline: Jobcli) -> None:
    """--retry-for is in seconds; after them, it is 125."""
    started = trio.current_time()
    await offline.fails("list", "--retry-for", "0.5")
    assert trio.current_time() - started >= 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-verb"],
        ["list", "--lim", "1"],  # no abbreviations: a later flag must not change what a script means
        ["list", "--limit", "0"],
        ["list", "--state", "no-such-state"],
        ["list", "--", "true"],
        ["query"],
        ["stream", "a", "b", "--from", "1"],
        ["signal", "a", "NOSUCH"],
        ["run"],
        ["run", "--env", "A", "--", "true"],
        ["--retry-for", "soon", "list"],
        ["--server", "localhost", "list"],
    ],
    ids=" ".join,
)
async def test_bad_usage_is_said(offline: Jobcli, arguments: list[str]) -> None:
    """One sentence and 125, before any contact: 1 and 2 are codes of jobs."""
    assert "nobody answers" not in await offline.fails(*arguments)


async def test_an_argument_that_is_not_utf_8_is_said(offline: Jobcli) -> None:
    """The protocol carries text; what is none cannot be an argument."""
    assert "is not UTF-8" in await offline.fails("run", "--", "echo", os.fsdecode(b"\xff"))


async def test_a_reader_who_starts_something_is_told_why_not(pki: TestPki, tmp_path: Path, server: str) -> None:
    """The refusal in the server's words."""
    told = await Jobcli(environment_for(pki, tmp_path, server, "rita")).fails("run", "--", "true")
    assert told.startswith("rita may not call Start: it needs the role writer")


async def test_a_certificate_that_is_refused_is_said(pki: TestPki, tmp_path: Path, server: str) -> None:
    """At once, whatever --retry-for is, and with the reason."""
    told = await Jobcli(environment_for(pki, tmp_path, server, "expired")).fails("list")
    assert "it has expired; have a new one signed" in told


@pytest.mark.parametrize("verb", ["query", "stream"])
async def test_an_unknown_id_is_said(jobcli: Jobcli, verb: str) -> None:
    """With the id, and how to find those that there are."""
    told = await jobcli.fails(verb, NO_JOB)
    assert told == f"there is no job {NO_JOB}; 'jobcli list' shows those that there are"


async def test_what_is_no_id_is_said(jobcli: Jobcli) -> None:
    """Escaped, so that it cannot move the cursor."""
    assert "'\\x1b[2J' is not a job id" in await jobcli.fails("query", "\x1b[2J")


@pytest.mark.parametrize("what", ["cert", "key", "ca"])
async def test_a_missing_file_is_named(offline: Jobcli, tmp_path: Path, what: str) -> None:
    """Its kind, its path and the system's reason."""
    told = await offline.fails("list", f"--{what}", str(tmp_path / "none"))
    assert str(tmp_path / "none") in told
    assert told.startswith("cannot read the ")
    assert told.endswith(": No such file or directory")


async def test_an_unreadable_key_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """A directory is as unreadable as a file of somebody else's, for root too."""
    assert await offline.fails("list", "--key", str(tmp_path)) == (
        f"cannot read the private key {tmp_path}: Is a directory"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
async def test_a_key_of_somebody_else_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """Permission denied, with the path."""
    key = tmp_path / "secret.key"
    key.touch(mode=0)
    assert await offline.fails("list", "--key", str(key)) == f"cannot read the private key {key}: Permission denied"


async def test_a_key_of_another_certificate_is_said(offline: Jobcli, pki: TestPki) -> None:
    """Both files are named."""
    told = await offline.fails("list", "--key", str(pki.key("rita")))
    certificate = f"{pki.certificate('alice')} (JOBCLI_CERT)"
    assert told == f"the private key {pki.key('rita')} does not belong to the certificate {certificate}"


@pytest.mark.parametrize("what", ["cert", "key", "ca"])
async def test_a_file_that_is_no_pem_is_named(offline: Jobcli, tmp_path: Path, what: str) -> None:
    """What OpenSSL cannot read is said by name, not by an OpenSSL error code."""
    file = tmp_path / "noise"
    file.write_bytes(os.urandom(100))
    assert str(file) in await offline.fails("list", f"--{what}", str(file))


async def test_missing_settings_are_all_named(offline: Jobcli) -> None:
    """With the ways to give them."""
    bare = offline.but(JOBCLI_SERVER=None, JOBCLI_CERT=None, JOBCLI_KEY=None, JOBCLI_CA=None)
    told = await bare.fails("list")
    assert told.startswith("missing: --server, --cert, --key, --ca ")
    assert "jobd dev" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server = ", " is not TOML"),
        (
            'sever = "localhost:1"',
            ":1 has 'sever': a profile has the texts server, cert, key, ca, key-passphrase-file; did you mean server?",
        ),
        ("server = 1", ":1 has 'server'"),
        ('[profile]\nserver = "x"', ":1 has 'profile'"),
    ],
)
async def test_a_bad_profile_is_named(offline: Jobcli, tmp_path: Path, text: str, told: str) -> None:
    """The path, and what is wrong in it."""
    profile = tmp_path / "bad.toml"
    profile.write_text(text)
    message = await offline.but(JOBCLI_SERVER=None).fails("list", "--profile", str(profile))
    assert f"the profile {profile}{told}" in message


async def test_a_profile_that_is_not_there_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """One that was asked for must be there."""
    told = await offline.but(JOBCLI_SERVER=None).fails("list", "--profile", str(tmp_path / "none.toml"))
    assert told == f"cannot read the profile {tmp_path}/none.toml: No such file or directory"


async def test_help_is_no_failure(offline: Jobcli) -> None:
    """--help goes to stdout and ends with 0, for jobcli and for a verb."""
    assert "Exit codes" in await offline.ok("--help")
    assert "--from OFFSET" in await offline.ok("stream", "--help")
