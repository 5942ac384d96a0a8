"""The list of what the wheel brings along (SBOM): CycloneDX, whole, and of the versions that are pinned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.packages.conftest import LOCK

PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ;]+)", re.MULTILINE)


@pytest.fixture
def sbom(dist: Path) -> dict[str, Any]:
    [found] = dist.glob("*.cdx.json")
    read: dict[str, Any] = json.loads(found.read_text())
    return read


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def components(sbom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is brought along, by name; the wheel itself is what brings it."""
    return {name: each for each in sbom["components"] if (name := canonical(each["name"])) != "jobd"}


def test_it_is_cyclonedx_about_jobd(sbom: dict[str, Any]) -> None:
    """Of a version that scanners read."""
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "jobd")
    assert tuple(map(int, sbom["specVersion"].split("."))) >= (1, 5)


def test_it_has_what_is_pinned_and_nothing_else(sbom: dict[str, Any]) -> None:
    """Each with its version."""
    pinned = {canonical(name): version for name, version in PINNED.findall(LOCK.read_text())}
    assert len(pinned) > 15
    assert {name: each["version"] for name, each in components(sbom).items()} == pinned


def test_each_has_its_place_and_licence(sbom: dict[str, Any]) -> None:
    """So that advisories can be matched (purl), and a lawyer has something to read."""
    for name, each in components(sbom).items():
        assert canonical(each["purl"]) == canonical(f"pkg:pypi/{name}@{each['version']}"), name
        assert each.get("licenses"), name


def test_it_says_who_needs_whom(sbom: dict[str, Any]) -> None:
    """Everything that is listed is needed by something, in the end by jobd."""
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in sbom["dependencies"]}
    reached, fresh = set[str](), {sbom["metadata"]["component"]["bom-ref"]}
    while fresh:
        reached |= fresh
        fresh = {ref for each in fresh for ref in needs.get(each, ())} - reached
    assert {each["bom-ref"] for each in components(sbom).values()} <= reached
