"""Man pages: there is one for each program, it says all that the parser says, and renders."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.documents import options_of, parsers, subparsers_of
from tests.support.installed import Installed, run

NAMES = [parser.prog.replace(" ", "-") for parser in parsers()]


def rendered(page: Path, home: Path) -> str:
    """As a reader sees it, without what makes letters bold."""
    environment = {**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "HOME": str(home)}
    done = run("man", "--warnings", "-l", page, cwd=home, env=environment)
    assert done.stderr == ""
    return done.stdout


def test_there_is_a_page_for_each_program_and_no_other(installed: Installed) -> None:
    """Where man looks, when the programs are in PATH."""
    there = {path.name for path in (installed.share / "man" / "man1").iterdir()}
    assert there == {f"{name}.1" for name in NAMES}
    assert {"jobd.1", "jobd-backup.1", "jobcli.1", "jobpki.1"} <= there


@pytest.mark.skipif(not shutil.which("man"), reason="needs man")
@pytest.mark.parametrize("parser", parsers(), ids=NAMES)
def test_a_page_says_what_the_parser_says(locked: Installed, parser: argparse.ArgumentParser, tmp_path: Path) -> None:
    """Every command and every option; it renders without a warning."""
    name = parser.prog.replace(" ", "-")
    text = rendered(locked.share / "man" / "man1" / f"{name}.1", tmp_path)
    for each in [parser, *subparsers_of(parser)]:
        assert re.search(rf"{each.prog.replace(' ', '[- ]')}\b", text), each.prog
        for option in options_of(each) - {"-h", "--help"}:
            assert re.search(rf"(^|\s|\[){re.escape(option)}\b", text), f"{each.prog} {option}"


@pytest.mark.skipif(not shutil.which("mandoc"), reason="needs mandoc")
@pytest.mark.parametrize("name", NAMES)
def test_mandoc_has_nothing_to_say_of_a_page(locked: Installed, name: str) -> None:
    """Another reader of the same language, and a stricter one."""
    page = locked.share / "man" / "man1" / f"{name}.1"
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
