"""Command lines that are wrong: what was meant is said, by each program."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from api.errors import ConfigError
from api.nearest import nearest
from jobcli import cli as jobcli
from jobd import server
from pki.parser import build_parser


@pytest.mark.parametrize(
    ("parser", "argv", "meant"),
    [
        (server.parser, ["--slotz", "3"], "unrecognized arguments: --slotz 3; did you mean --slots?"),
        (server.parser, ["--slotz=3"], "unrecognized arguments: --slotz=3; did you mean --slots?"),
        (server.parser, ["--crl-polcy", "x"], "did you mean --crl-policy?"),
        (server.parser, ["upgrad"], "unrecognized arguments: upgrad; did you mean upgrade?"),
        (server.parser, ["serve"], "unrecognized arguments: serve\n"),
        (build_parser, ["clinet"], "did you mean client?"),
        (build_parser, ["client", "dir", "alice", "--role", "reader", "--forec"], "did you mean --force?"),
        (build_parser, ["show", "a.crt", "--expires-wihtin", "3"], "did you mean --expires-within?"),
    ],
)
def test_the_nearest_flag_or_command_is_named(
    parser: Callable[[], argparse.ArgumentParser],
    argv: list[str],
    meant: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing is begun; the exit code is 2."""
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(argv)
    assert caught.value.code == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["start", "--memry", "1G", "true"], "unrecognized arguments: --memry"),
        (["list", "--stat", "running"], "did you mean --state?"),
        (["strat", "true"], "did you mean start?"),
        (["query", "x", "--sever", "y"], "did you mean --server?"),
        (["run", "--signal", "HUP", "--", "true"], "unrecognized arguments: --signal; it is an option of stop; see"),
        (["run", "--version", "--", "true"], "unrecognized arguments: --version; it comes before the command; see"),
    ],
)
def test_jobcli_names_them_too(argv: list[str], meant: str) -> None:
    """With its own way to say what is wrong."""
    with pytest.raises(ConfigError) as caught:
        jobcli.parse(argv)
    assert meant in str(caught.value)


def test_what_is_near_to_nothing_is_not_guessed_at() -> None:
    """No hint is better than a wrong one."""
    assert nearest("xyzzy", ["slots", "state"]) == ""
