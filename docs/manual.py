"""Writes man pages, and completions for bash, zsh and fish, from the parsers, into a directory laid out as ``share``.

python docs/manual.py DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import shtab
from argparse_manpage.manpage import Manpage
from generate import actions_of, commands_of, jobd_parsers, parsers

from api.version import VERSION
from jobd import server as jobd

SUMMARIES: Final = {
    "jobd": "run Linux processes for remote people and programs",
    "jobd dev": "start a throw-away jobd, with certificates of its own",
    "jobd upgrade": "replace the code of a running jobd",
    "jobd check": "say what of jobd's settings, files and machine is weak or wrong",
    "jobd backup": "back up the records and the output of jobs",
    "jobd restore": "make a state directory of a backup",
    "jobd audit": "look at the audit log of a jobd",
    "jobcli": "start, follow, query and stop processes on a jobd",
    "jobpki": "make, renew, revoke and show the certificates of jobd and its clients",
}
COMPLETIONS: Final = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}
FILES: Final = frozenset({"FILE", "BACKUP", "CSR", "CERT"})
DIRECTORIES: Final = frozenset({"DIR", "PARENT"})


def pages() -> Iterator[tuple[str, str]]:
    """The name of each file below ``share``, and the man page that is to be in it."""
    all_names = [_page_name(parser) for parser in parsers()]
    for parser in parsers():
        name = _page_name(parser)
        _name_groups(parser)
        page = Manpage(
            parser,
            format="single-commands-section",
            _data={
                "project_name": "jobd",
                "version": VERSION,
                "manual_title": "jobd manual",
                "description": SUMMARIES[parser.prog],
            },
        )
        page.prog = name
        if name == "jobd":
            commands = (f".TP\n{_reference(_page_name(part))}\n{SUMMARIES[part.prog]}" for part in jobd_parsers()[1:])
            page.add_section("commands", ">", "\n".join(commands))
        page.add_section("see also", ">", ", ".join(_reference(other) for other in all_names if other != name))
        yield f"man/man1/{name}.1", _roff(str(page))


def completions() -> Iterator[tuple[str, str]]:
    """The name of each file below ``share``, and the completion that is to be in it."""
    for name, place in COMPLETIONS.items():
        for parser in (_jobd(), *(each for each in parsers() if not each.prog.startswith("jobd"))):
            _say_what_is_a_file(parser)
            yield place.format(parser.prog), shtab.complete(parser, shell=name)


def _page_name(parser: argparse.ArgumentParser) -> str:
    return parser.prog.replace(" ", "-")


def _reference(name: str) -> str:
    return rf"\fB{name}\fR(1)".replace("-", r"\-")


def _name_groups(parser: argparse.ArgumentParser, *, below: bool = False) -> None:
    """Such names of groups of arguments as look well where argparse-manpage puts them."""
    commands = [each for action in actions_of(parser) for each in commands_of(action)]
    for group in parser._action_groups:  # noqa: SLF001 # argparse has no public way to list them
        if below and group.description:
            group.title = f"{group.title}:"  # its description follows on the same line
        if commands and group.title == "positional arguments":
            group.title = "commands"
    for each in commands:
        _name_groups(each, below=True)


def _roff(page: str) -> str:
    """What argparse-manpage leaves as it is though it means something to roff: a quote in front of a line is a command,
    and long lists of choices have to be allowed to break. And a ragged margin, since there are many long words.
    """
    header, rest = page.split("\n", 1)
    rest = re.sub(r"^'", r"\\&'", rest, flags=re.MULTILINE)
    rest = re.sub(r"\{[\w\\,-]+\}", lambda choices: choices[0].replace(",", r",\:"), rest)
    return "\n".join((header.replace(r"\-", "-"), ".ad l", ".nh", rest))


def _jobd() -> argparse.ArgumentParser:
    """The commands of jobd as one parser: each has its own, so that a daemon does not import what it does not need."""
    whole, *parts = jobd_parsers()
    commands = whole.add_subparsers(metavar="COMMAND")
    for part in parts:
        options = [part]
        if part.prog == "jobd check":  # takes those of jobd as well
            options.append(jobd.add_settings(argparse.ArgumentParser(add_help=False)))
        commands.add_parser(part.prog.removeprefix("jobd "), help=SUMMARIES[part.prog], parents=options, add_help=False)
    return whole


def _say_what_is_a_file(parser: argparse.ArgumentParser) -> None:
    for action in actions_of(parser):
        if commands := commands_of(action):
            for each in commands:
                _say_what_is_a_file(each)
        elif action.metavar in FILES:
            action.complete = shtab.FILE
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY


def main() -> None:
    share = Path(sys.argv[1])
    os.environ["COLUMNS"] = "10000"  # argparse wraps at this; whoever renders the page wraps it again
    for name, text in (*pages(), *completions()):
        file = share / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main()
