"""What can be said of settings while another jobd has what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.errors import ConfigError
from jobd.config import Config
from jobd.parts import judge_addresses

FILES = {name: Path(name) for name in ("cert", "key", "ca", "state")}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"listen": "127.0.0.1:22222222"}, "is not an address"),
        ({"listen": "nowhere.invalid:1"}, "check the host name"),
        ({"metrics": "127.0.0.1"}, "is not an address"),
        ({"metrics": "0.0.0.0:9464"}, "others can reach that address"),
        ({"metrics": "[::]:9464"}, "others can reach that address"),
        ({"metrics_file": Path("/nowhere/at/all.prom")}, "there is no directory"),
    ],
)
def test_an_address_that_can_be_none_is_refused(settings: dict[str, Any], why: str) -> None:
    """Without a socket."""
    with pytest.raises(ConfigError, match=why):
        judge_addresses(Config(**FILES, **settings))


def test_others_are_not_tried(tmp_path: Path) -> None:
    """Those that are in use, and those of other machines."""
    judge_addresses(Config(**FILES, listen="203.0.113.9:1", metrics="localhost:1", metrics_file=tmp_path / "jobd.prom"))
    judge_addresses(Config(**FILES, metrics="0.0.0.0:9464", metrics_anywhere=True))
