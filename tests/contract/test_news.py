"""News of changes is in a form in which it gets into the change log."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
NEWS = sorted(path for path in (ROOT / SETTINGS["directory"]).iterdir() if path.name not in SETTINGS["ignore"])
KINDS = [kind["directory"] for kind in SETTINGS["type"]]


@pytest.mark.parametrize("news", NEWS, ids=lambda path: path.name)
def test_news_has_a_kind_and_a_sentence(news: Path) -> None:
    """A file with another name would be left out, silently."""
    assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(KINDS)})\.md", news.name)
    assert news.read_text().strip().endswith(".")


def test_the_kinds_are_those_that_are_explained() -> None:
    """Where people look who write news."""
    assert re.findall(r"^- `(\w+)`:", (ROOT / SETTINGS["directory"] / "README.md").read_text(), re.MULTILINE) == KINDS


def test_the_change_log_has_the_place_where_news_goes() -> None:
    """Without this line towncrier would write above the title."""
    assert "<!-- towncrier release notes start -->\n" in (ROOT / SETTINGS["filename"]).read_text()
