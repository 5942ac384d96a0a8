"""Completions, asked for in the real shells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pexpect
import pytest

from tests.support.installed import Installed, run

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
QUESTIONS = [
    ("jobcli st", {"start", "stop", "stream"}),
    ("jobcli stream --fr", {"--from"}),
    ("jobcli list --state ou", {"out_of_memory", "output_limit"}),
    ("jobpki re", {"renew", "request", "revoke"}),
    ("jobpki client --ro", {"--role"}),
    ("jobpki show ca.c", {"ca.crl", "ca.crt"}),
    ("jobd up", {"upgrade"}),
    ("jobd --crl-", {"--crl-policy"}),
    ("jobd check --metrics-", {"--metrics-anywhere", "--metrics-file", "--metrics-interval"}),
    ("jobd audit ve", {"verify"}),
    ("jobd --ca ca.crt --cert ca.c", {"ca.crl", "ca.crt"}),
]
needs = {name: pytest.mark.skipif(not shutil.which(name), reason=f"needs {name}") for name in ("bash", "zsh", "fish")}
asked = pytest.mark.parametrize(("line", "answers"), QUESTIONS, ids=[line for line, _ in QUESTIONS])


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with files to complete."""
    for name in ("ca.crt", "ca.crl", "other"):
        (tmp_path / name).touch()
    return tmp_path


@needs["bash"]
@asked
def test_bash_completes(locked: Installed, here: Path, line: str, answers: set[str]) -> None:
    """Commands, options, their values, and files where a file is wanted."""
    script = locked.share / "bash-completion" / "completions" / line.split()[0]
    done = run("bash", "-c", BASH, "bash", script, *line.split(), cwd=here, env=locked.environment())
    assert set(done.stdout.split()) == answers
    assert done.stderr == ""


@needs["fish"]
@asked
def test_fish_completes(locked: Installed, here: Path, line: str, answers: set[str]) -> None:
    """The same, with a description beside most."""
    script = locked.share / "fish" / "vendor_completions.d" / f"{line.split()[0]}.fish"
    ask = f"source {script}; complete -C '{line}'"
    done = run("fish", "--no-config", "-c", ask, cwd=here, env=locked.environment())
    assert {found.split("\t")[0] for found in done.stdout.splitlines()} == answers


@needs["zsh"]
@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("jobcli strea", "jobcli stream"),
        ("jobcli list --stat", "jobcli list --state"),
        ("jobpki ren", "jobpki renew"),
        ("jobd upgr", "jobd upgrade"),
        ("jobd check --metrics-f", "jobd check --metrics-file"),
    ],
)
def test_zsh_completes(locked: Installed, here: Path, line: str, whole: str) -> None:
    """At a terminal, with the Tab key: there is no other way to ask it."""
    shell = pexpect.spawn("zsh", ["-f"], cwd=str(here), env={**locked.environment(), "TERM": "dumb"}, timeout=20)
    try:
        functions = locked.share / "zsh" / "site-functions"
        shell.sendline(f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -u -D; PS1='rea''dy> '")
        shell.expect_exact("ready> ")
        shell.send(f"{line}\t")
        shell.expect_exact(f"{whole} ")
    finally:
        shell.close(force=True)
