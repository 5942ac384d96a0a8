"""The command lines that documents show are ones that the programs take."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import ConfigError
from jobcli import cli as jobcli
from jobd import server as jobd
from jobd.config import load
from pki.parser import build_parser as jobpki_parser
from tests.support.daemon import ROOT
from tests.support.documents import DOCUMENTS, generator, options_of, parsers, subparsers_of
from tests.support.shown import PAGES, everything_shown, named

PROGRAMS = ("jobd", "jobcli", "jobpki")
ENDS = frozenset({"|", "||", "&", "&&", ";"})
FOREIGN = frozenset({"--no-deps", "--die-with-parent", "--quick"}) | frozenset(
    {
        "--client-cert-auth",
        "--trusted-ca-file",
        "--bump-revision",
        "--mark-compacted",
        "--quota-backend-bytes",
        "--cert-file",
        "--key-file",
        "--endpoints",
        "--insecure-skip-tls-verify",
    }
)
"""Options of other programs that documents name by themselves: pip, bwrap, the benchmarks, etcd."""
GIVEN_LATER = re.compile(r"the following arguments are required|one of the arguments .* is required")


def calls_in(line: str) -> Iterator[list[str]]:
    """The calls of our programs in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    call: list[str] = []
    for token in [*lexer, ";"]:
        if token in ENDS or set(token) <= set("<>()"):
            if call and (program := re.split("[=/]", call[0])[-1]) in PROGRAMS:  # as in ExecStart=/usr/bin/jobd
                yield [program, *call[1:]]
            call = []
        elif token != "…":  # whatever else is needed there
            call.append(token)


def refusal(call: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the program's own parser says against it."""
    try:
        _parse(call)
    except ConfigError as exc:
        return str(exc)
    except SystemExit as exc:
        return "" if exc.code in (0, None) else capsys.readouterr().err
    return ""


def _parse(call: list[str]) -> None:
    program, *arguments = call
    if program == "jobcli":
        jobcli.parse(arguments)
    elif program == "jobpki":
        jobpki_parser().parse_args(arguments)
    else:
        parts = {part.prog.removeprefix("jobd "): part for part in generator().jobd_parsers()[1:]}
        part = parts.get(arguments[0]) if arguments else None
        if part is None:
            jobd.parser().parse_args(arguments)
        elif part.prog == "jobd check":  # the rest is for jobd
            jobd.parser().parse_args(part.parse_known_args(arguments[1:])[1])
        else:
            part.parse_args(arguments[1:])


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_commands_that_are_shown_are_taken(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand there, but for … where something is left out."""
    for shown in everything_shown():
        if shown.document == document.name and set(PROGRAMS) & set(re.findall(r"\w+", shown.command)):
            for call in calls_in(shown.command):
                assert refusal(call, capsys) == "", shown.command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_named_exist(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what they are named with; what else they need may be left out."""
    for code in named(document.read_text()):
        if code.split()[0] not in PROGRAMS:
            continue
        for call in calls_in(code):
            why = refusal(call, capsys)
            assert not why or GIVEN_LATER.search(why), code


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_that_are_named_exist(document: Path) -> None:
    """In one of the programs."""
    known = {option for parser in every_parser() for option in options_of(parser)} | FOREIGN
    for code in named(document.read_text()):
        if option := re.match(r"--[a-z][\w-]*", code):
            assert option[0] in known or any(each.startswith(option[0]) for each in known if code.endswith("…")), code


def every_parser() -> Iterator[argparse.ArgumentParser]:
    for parser in parsers():
        yield parser
        yield from subparsers_of(parser)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_are_shown_are_taken(document: Path, tmp_path: Path) -> None:
    """Each block of TOML is a configuration of jobd that it can start with."""
    needed = {name: str(tmp_path / name) for name in ("cert", "key", "ca", "state")}
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        load(needed, {}, file)


def sessions() -> set[str]:
    module = ast.parse((ROOT / "noxfile.py").read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    return {each.name for each in functions if any("nox.session" in ast.unparse(by) for by in each.decorator_list)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_sessions_that_are_named_exist(document: Path) -> None:
    """Those of nox."""
    assert set(re.findall(r"\.ci/nox -s (\w+)", document.read_text())) <= sessions()


def test_the_readme_lists_all_sessions() -> None:
    """In its last paragraph."""
    listed = re.findall(r"`(\w+)`", (ROOT / "README.md").read_text().split("lists the sessions:")[1])
    assert set(listed) == sessions()
