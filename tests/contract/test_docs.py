"""The reference documents are made from the code, and are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, generator

ROOT = Path(__file__).parents[2]
MADE = {"pki/ca.crl"}
"""What those who do as the documents say have then."""
PLACES = re.compile(r"`((?:api|jobd|jobcli|pki|tests|docs|\.ci)/[\w/.]*)`")


@pytest.mark.parametrize("name", ["api", "cli", "limits", "metrics"])
def test_a_reference_says_what_the_code_says(name: str) -> None:
    """After a change: python docs/generate.py"""
    assert (ROOT / "docs" / f"{name}.md").read_text() == getattr(generator(), name)()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Files, and places in them."""
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        file, _, anchor = target.partition("#")
        there = document.parent / file if file else document
        assert there.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{document.name} links to {target}"


def test_the_architecture_names_places() -> None:
    """The picture is of something."""
    assert len(PLACES.findall((ROOT / "docs" / "architecture.md").read_text())) > 50


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_path_that_is_named_is_there(document: Path) -> None:
    """What a document says of the code, of its tests too, can be looked up."""
    named = set(PLACES.findall(document.read_text())) - MADE
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_library_example_of_the_readme_is_the_client_s_own() -> None:
    """The five lines that people copy are the ones in api/client.py, which type-checks."""
    readme = (ROOT / "README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    documented = (ROOT / "api" / "client.py").read_text()
    compile(example, "README.md", "exec")
    body = example.split("async def main():")[1].split("trio.run")[0]
    assert all(line.strip() in documented for line in body.splitlines() if "connect(" not in line)
