"""The command that makes a sandbox, and what is found out about this machine."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jobd.limits import isolation
from jobd.limits.isolation import KEPT, PATH, Bubblewrap, detect_isolation, try_out
from jobd.worker.errors import InvalidSpecError
from jobd.worker.isolation import NOT_ALLOWED, SANDBOXED, Isolation
from jobd.worker.job import JobSpec
from tests.support.patience import patient

BWRAP = shutil.which("bwrap", path=PATH)
needs_bwrap = pytest.mark.skipif(BWRAP is None, reason="needs bubblewrap (bwrap)")
SHORT = patient(1)
WHOLE = Isolation(private_tmp=True, read_only_root=True, no_network=True, pid_namespace=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Isolation(no_network=True), "--dev-bind / / --unshare-net"),
        (Isolation(pid_namespace=True), "--dev-bind / / --unshare-pid --proc /proc"),
        (Isolation(read_only_root=True), "--ro-bind / / --dev /dev"),
        (Isolation(private_tmp=True), "--dev-bind / / --perms 1777 --tmpfs /tmp --perms 1777 --tmpfs /var/tmp"),
        (
            WHOLE,
            "--ro-bind / / --dev /dev --perms 1777 --tmpfs /tmp --perms 1777 --tmpfs /var/tmp "
            "--unshare-net --unshare-pid --proc /proc --remount-ro /proc",
        ),
    ],
    ids=lambda value: " ".join(value.asked) if isinstance(value, Isolation) else "",
)
def test_each_flag_has_its_arguments(asked: Isolation, words: str) -> None:
    """And no other; those that say what is mounted come before those that are mounted over it."""
    assert Bubblewrap("bwrap").command(asked, 1000) == ["bwrap", *words.split(), "--"]


def test_a_sandboxed_job_of_root_has_few_capabilities() -> None:
    """None with which it could undo what it is in."""
    command = Bubblewrap("bwrap").command(Isolation(no_network=True), 0)
    assert command[:6] == ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--cap-drop"]
    added = {word for before, word in itertools.pairwise(command) if before == "--cap-add"}
    assert added == {f"CAP_{name.upper()}" for name in KEPT}
    assert not added & {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_MKNOD", "CAP_BPF"}


def test_without_bubblewrap_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of each, and in a line for people; what needs no sandbox can be had."""
    monkeypatch.setattr(isolation, "PATH", str(tmp_path))
    means = detect_isolation(allow_new_privileges=False)
    assert means.sandbox is None
    assert means.available == ["drop_capabilities"]
    assert means.refused(WHOLE) == [
        (name, "cannot be had here: bubblewrap (bwrap) is not installed") for name in SANDBOXED
    ]
    assert list(means.weaknesses) == [
        "private_tmp, read_only_root, no_network, pid_namespace cannot be had here: bubblewrap (bwrap) is not installed"
    ]


def program(directory: Path, script: str) -> None:
    """A bwrap that does this."""
    path = directory / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('case " $* " in *" --unshare-net "*) echo "bwrap: no such luck" >&2; exit 1;; esac', "bwrap: no such luck"),
        ('case " $* " in *" --unshare-net "*) exit 3;; esac', "a trial ended with 3"),
        ('case " $* " in *" --unshare-net "*) sleep 100;; esac', f"a trial was not over after {SHORT:g} s"),
    ],
)
def test_what_cannot_be_made_here_is_said_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    """Each flag is tried; one that fails, or takes for ever, does not cost the others."""
    program(tmp_path, f"{script}; exit 0".replace("sleep", "exec sleep"))
    monkeypatch.setattr(isolation, "PATH", f"{tmp_path}:{PATH}")
    monkeypatch.setattr(isolation, "PATIENCE", SHORT)
    means = detect_isolation(allow_new_privileges=True)
    assert dict(means.missing) == {"no_network": f"cannot be had here: {why}"}
    assert means.weaknesses[0] == f"no_network cannot be had here: {why}"
    assert "private_tmp" in means.available


def test_new_privileges_are_for_the_configuration_to_allow() -> None:
    """By default no job may ask for them."""
    refused = Isolation(allow_new_privileges=True)
    assert detect_isolation(allow_new_privileges=False).refused(refused) == [("allow_new_privileges", NOT_ALLOWED)]
    assert detect_isolation(allow_new_privileges=True).refused(refused) == []


@pytest.mark.parametrize("other", [*SANDBOXED, "drop_capabilities"])
def test_new_privileges_cannot_be_had_with_anything_else(other: str) -> None:
    """Who makes a sandbox, or takes capabilities away, takes those as well."""
    spec = JobSpec(("true",), isolation=Isolation(allow_new_privileges=True, **{other: True}))
    with pytest.raises(
        InvalidSpecError, match=f"spec.isolation.allow_new_privileges: cannot be had together with {other}"
    ):
        spec.check()


@needs_bwrap
def test_a_trial_is_a_real_one() -> None:
    """It fails where the real thing would."""
    assert BWRAP
    real = Bubblewrap(BWRAP)
    if try_out(real, WHOLE):
        pytest.skip("this machine does not let bubblewrap make sandboxes")
    assert "nonsense" in try_out(Bubblewrap(BWRAP, temporary=["/proc/nonsense"]), Isolation(private_tmp=True))
    assert try_out(Bubblewrap("/nowhere/bwrap"), WHOLE) == "No such file or directory"


@needs_bwrap
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another user")
def test_a_sandbox_of_an_ordinary_user_works_the_same() -> None:
    """By a user namespace: without any right of its own."""
    assert BWRAP
    command = [
        *Bubblewrap(BWRAP).command(WHOLE, 65534),
        "sh",
        "-c",
        "id -u; grep CapEff /proc/self/status; touch /tmp/x; ls /tmp",
    ]
    done = subprocess.run(command, user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, check=False)
    if b"namespace" in done.stderr or b"uid map" in done.stderr:
        pytest.skip("this machine does not let ordinary users make user namespaces")
    assert done.stdout.split() == [b"65534", b"CapEff:", b"0000000000000000", b"x"]
