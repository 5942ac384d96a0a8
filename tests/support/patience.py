"""How long tests wait for what is to happen: much longer than it takes, and longer still on a machine that is slow.

Only a test that fails waits for so long; one that is too impatient on a busy machine fails for nothing.
"""

from __future__ import annotations

import os
from typing import Final

FACTOR: Final = float(os.environ.get("JOBD_TEST_PATIENCE", "3"))


def patient(seconds: float) -> float:
    """The time limit of a test, for what should be done in so many seconds on a quiet machine."""
    return seconds * FACTOR
