"""The commands that documents show, whole, and where; and those that no test runs, with why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from tests.support.daemon import ROOT
from tests.support.documents import DOCUMENTS

PAGES: Final = (*DOCUMENTS, ROOT / ".ci" / "debian" / "README.Debian")
NO_COMMAND: Final = re.compile(r"[\w-]+ = |\[[\w.]+\]$|\{|.*[▶└]|\(jobcli, or|link to the launcher|- ")
"""Files, pictures and lists, set as code or indented."""

NOT_RUN: Final = {
    "useradd --system jobd": "would change the machine's users",
    "useradd --system jobs": "the same; the Debian package's postinst makes such users, in a Debian of its own",
    "jobd --user jobd --job-user jobs …": "takes root and such users: tests/integration/test_unprivileged.py",
    "jobcli run --user build -- id -un": "takes root and such a user: tests/integration/test_run_as.py",
    "systemctl enable --now jobd": "takes systemd: tests/machine",
    "chown -R etcd: /var/lib/etcd": "takes such a user: the test's etcd runs as whoever runs the tests",
    "systemctl start etcd": "takes systemd; the test starts etcd itself",
    "apt install ./dist/jobd_*+deb12_amd64.deb": "dpkg does, in a Debian of its own: tests/packages/test_debian.py",
    "sh .ci/nox": "is what runs this",
    "sh .ci/nox -s demo": "a session: tests/contract/test_docs_commands.py sees that there is one",
    "sh .ci/nox -s package": "the same",
    "sh .ci/nox -s debian": "the same",
}
"""Whole commands."""


_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclass(frozen=True, slots=True)
class Shown:
    """A command that a document shows, set apart.

    Attributes:
        section: the nearest heading above it.
        command: without the prompt, and as one line.
    """

    document: str
    section: str
    command: str


def everything_shown() -> Iterator[Shown]:
    """All of all documents; of a session, what is typed in it."""
    for page in PAGES:
        for section, block in _blocks(page):
            lines = [line for line in block if not NO_COMMAND.match(line)]
            typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            for command in "\n".join(typed or lines).replace("\\\n", "").splitlines():
                yield Shown(page.name, section, " ".join(_without_comment(command).split()))


def shown_in(document: str, *sections: str) -> list[str]:
    """What is to be run of these sections of a document, in its order."""
    found = [each for each in everything_shown() if each.document == document and each.section in sections]
    assert {each.section for each in found} == set(sections), "a section has another name, or shows nothing"
    return [each.command for each in found if each.command not in NOT_RUN]


def named(text: str) -> Iterator[str]:
    """What the text itself, between blocks, sets as code."""
    prose = re.sub(r"^ {4}.*$", "", _FENCE.sub("", text), flags=re.MULTILINE)
    yield from (" ".join(found.split()) for found in _INLINE.findall(prose))


def sections_of(document: str) -> list[str]:
    """Those that show commands, in their order."""
    return list(dict.fromkeys(each.section for each in everything_shown() if each.document == document))


def _blocks(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Indented lines that follow on each other."""
    section, fenced, lines = "", False, []
    for line in page.read_text().splitlines():
        fenced ^= line.startswith("```")
        if heading := re.match("#+ (.*)", line) if not fenced else None:
            section = heading[1]
        lines.append((section, line[4:].strip() if line.startswith("    ") and not fenced else ""))
    for is_code, group in groupby(lines, key=lambda each: bool(each[1])):
        block = list(group)
        if is_code:
            yield block[0][0], [line for _, line in block]


def _without_comment(command: str) -> str:
    return re.sub(r"\s{2,}#.*", "", command)
