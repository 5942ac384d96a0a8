"""The session of the README, typed into a shell: it goes as it is shown."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.daemon import ROOT
from tests.support.patience import patient
from tests.support.program import SECONDS, program, with_programs
from tests.support.shown import shown_in

README = (ROOT / "README.md").read_text()
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the programs have the names that they have when they are installed."""
    return with_programs(tmp_path)


def blocks_after(words: str) -> list[str]:
    """The block of code that follows on these words, up to the next text."""
    [found] = re.findall(rf"^{re.escape(words)}(?:.*\n)*?\n((?:    .*\n|\n)+)", README, re.MULTILINE)
    return [line[4:] for line in found.splitlines()]


def transcript() -> Iterator[tuple[str, list[str]]]:
    """What is typed beside 'jobd dev', and what is shown for it; but for what takes a person."""
    typed, said = "", []
    for line in [*blocks_after("`jobd dev` starts a throw-away daemon"), "$ end"]:
        if line.startswith("$ "):
            if typed and typed != "jobd dev" and "-it" not in typed:
                yield typed, said
            typed, said = line.removeprefix("$ "), []
        elif line:
            said.append(line)


def pattern(line: str) -> str:
    """What a line of output is to look like: numbers and times differ from run to run."""
    if line.isdecimal():  # an exit code
        return line
    parts = [re.escape(part) for part in re.sub(r"\d[\d.:TZ-]*", "0", line).split()]
    return r"\s+".join(part.replace("…", ".*").replace("0", r"[\d.:TZ-]+") for part in parts)


def for_real() -> list[str]:
    """What is typed with a CA of one's own."""
    return [line.removeprefix("$ ") for line in blocks_after("For real, with a CA of your own:") if line]


def test_all_that_is_shown_is_typed_here() -> None:
    """By one of the tests below."""
    typed = {"jobd dev", "jobcli run -it -- bash", *for_real(), *(each for each, _ in transcript())}
    assert set(shown_in("README.md", "A session")) == typed


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_session_goes_as_it_is_shown(environment: dict[str, str], tmp_path: Path) -> None:
    """Every line that is shown comes, but for ids, numbers and times. (In which order, two pipes do not say.)"""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "Makefile").write_text("test:\n\t@echo it is tested\n")
    (tmp_path / "srv").mkdir()
    pairs = list(transcript())
    assert len(pairs) >= 8
    ids: dict[str, str] = {}
    with program(["dev"], environment, patient(120)):
        status = 0
        for typed, shown in pairs:
            for there, here in ids.items():
                typed = re.sub(rf"\b{there[:4]}\b", here, typed)
            typed = typed.replace("/srv", str(tmp_path / "srv"))
            done = subprocess.run(
                ["bash", "-c", f"(exit {status}); {typed}"],
                cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
            status, said = done.returncode, done.stdout
            if len(shown) == 1 and re.fullmatch(UUID, shown[0]):
                assert re.fullmatch(UUID, said.strip())
                ids[shown[0]] = said.strip()
                continue
            for line in shown:
                wanted = pattern(re.sub(rf"{UUID}|\b[0-9a-f]{{8}}\b", "…", line))
                assert re.search(rf"^\s*{wanted}$", said, re.MULTILINE), f"{typed}: {said}"
        somebody_at_a_terminal(environment, tmp_path)


def somebody_at_a_terminal(environment: dict[str, str], place: Path) -> None:
    """They have a shell, in what was sent before; and leave it alone."""
    [(typed, line, told)] = re.findall(
        r"^    \$ (jobcli .*-it .*)\n    .*?# (.*?)  .*\n    (.*)$", README, re.MULTILINE
    )
    terminal = pexpect.spawn(
        "bash", ["-c", typed], cwd=str(place), env={**environment, "TERM": "dumb"}, timeout=SECONDS, encoding="utf-8"
    )
    try:
        terminal.expect(r"\S")  # a prompt, whatever it looks like: from then on every key is the job's
        terminal.sendline(line.replace("/srv", str(place / "srv")))
        terminal.expect_exact("it is tested")
        terminal.sendcontrol("p")
        terminal.sendcontrol("q")
        terminal.expect(re.sub("[0-9a-f]{8}", "[0-9a-f]{8}", re.escape(told)))
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    assert terminal.exitstatus == 0


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_commands_for_real_use_work(environment: dict[str, str], tmp_path: Path) -> None:
    """A CA, a server and a client; a job runs; in an empty directory, with another port."""
    # Of this process, and below those that the kernel gives away: nobody gets it before jobd does.
    port = str(10_000 + os.getpid() % 20_000)
    commands = for_real()
    assert any("50051" in command for command in commands)
    (tmp_path / "Makefile").write_text("all:\n\t@echo made\n")
    script = "\n".join(["set -e", "trap 'kill $!; wait' EXIT", *commands]).replace("50051", port)
    with subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            out, err = shell.communicate(timeout=patient(60))
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGTERM)  # jobd ends in order, and so does the trap
            shell.communicate(timeout=SECONDS)
            raise
    assert shell.returncode == 0, err
    assert "made\n" in out
