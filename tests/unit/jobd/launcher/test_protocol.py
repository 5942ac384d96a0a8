"""What launcher, server and front say to each other arrives, whoever ends meanwhile."""

from __future__ import annotations

import pytest

from jobd.launcher import protocol
from jobd.launcher.protocol import receive, send


@pytest.mark.parametrize("unheard", [0, 1, 3])
def test_what_somebody_said_before_they_ended_is_heard(unheard: int) -> None:
    """Though they ended without hearing what they were told: of that the kernel tells before anything else."""
    ours, theirs = protocol.pair()
    with ours:
        with theirs:
            for _ in range(unheard):
                send(ours, {"op": "alive"})
            for code in range(2):
                send(theirs, {"op": "ended", "code": code})
        assert [receive(ours) for _ in range(3)] == [
            ({"op": "ended", "code": 0}, []),
            ({"op": "ended", "code": 1}, []),
            None,
        ]
