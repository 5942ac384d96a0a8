"""Adds the man pages and completions to sdist and wheel, where docs/manual.py has made them.

They are made before the build and not by it: to make them takes all that the programs import, and to build the
sdist on somebody's machine is to take hatchling alone. When nobody made them, there are none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHARE = "build/share"


class ShareHook(BuildHookInterface):
    """The hook that ``tool.hatch.build.hooks.custom`` in pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        share = Path(self.root, SHARE)
        if version == "editable" or not share.is_dir():
            return
        if self.target_name == "sdist":
            build_data["force_include"][str(share)] = SHARE
        else:
            build_data["shared_data"][str(share)] = "share"
