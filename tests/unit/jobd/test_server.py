"""What the server's process says when it serves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from jobd.daemon import Daemon
from jobd.server import _say_ready


def test_who_has_read_that_it_serves_may_count_on_another_server(capfd: pytest.CaptureFixture[str]) -> None:
    """The launcher knows before the line is whole: it starts none after one that never served."""
    read: list[str] = []
    daemon = SimpleNamespace(address="127.0.0.1:1", announced=lambda: read.append(capfd.readouterr().out))
    _say_ready(cast(Daemon, daemon))
    assert read == ["jobd is listening on 127.0.0.1:1"]
    assert capfd.readouterr().out == "\n"
