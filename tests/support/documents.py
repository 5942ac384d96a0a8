"""The documents, and the parsers that they are made from."""

from __future__ import annotations

import argparse
import functools
import importlib.util
from types import ModuleType

from tests.support.daemon import ROOT

DOCUMENTS = tuple(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "news", ROOT / ".github")
    for path in sorted(folder.glob("*.md"))
)
"""All that people read."""


@functools.cache
def generator() -> ModuleType:
    """docs/generate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


def parsers() -> list[argparse.ArgumentParser]:
    """Those of all programs: jobd, each of its commands, jobcli, jobpki."""
    made: list[argparse.ArgumentParser] = generator().parsers()
    return made


def subparsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Those of a program's commands."""
    generate = generator()
    return [below for action in generate.actions_of(parser) for below in generate.commands_of(action)]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """All names of all options."""
    return {name for action in generator().actions_of(parser) for name in action.option_strings}
