"""Settings that say nothing without another: whoever says one believes that something is done which is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NEEDS: Final = {
    "crl_policy": "crl",
    "metrics_interval": "metrics_file",
    "metrics_anywhere": "metrics",
    "worker": "pool",
    "pool_prefix": "pool",
    "pool_cert": "pool",
    "pool_key": "pool",
    "pool_ca": "pool",
    "pool_secrets": "pool",
    "pool_keep": "pool",
    "advertise": "pool",
    "broker_cert": "pool",
    "broker_key": "pool",
    "worker_name": "pool",
    "labels": "pool",
}
"""Each with that other one; by field names."""
AS_WITHOUT: Final = {"metrics_anywhere": False, "worker": True}
"""Of those that are true or false: what is so anyway."""


def alone(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """A setting of these that says nothing here, and the one that it needs; None if there is none.

    Args:
        values: those that were said.
    """
    for name, other in NEEDS.items():
        if name in values and other not in values and values[name] != AS_WITHOUT.get(name):
            return name, other
    return None
