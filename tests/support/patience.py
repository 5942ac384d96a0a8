"""How long tests wait for what is to happen: longer on a machine that is slow."""

from __future__ import annotations

import os
from typing import Final

FACTOR: Final = float(os.environ.get("JOBD_TEST_PATIENCE", "1"))


def patient(seconds: float) -> float:
    """So many seconds on a machine of ours, in those of the one that this is."""
    return seconds * FACTOR
