"""How much of the server one principal may have: calls, streams and jobs over all its connections, and those."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from jobd.worker.policy import Caller

UNLIMITED: Final = math.inf


@dataclass(frozen=True, slots=True)
class Quota:
    """For those whom it is about; 0 says nothing.

    Attributes:
        calls_per_second: that may begin; as many may come at once, after a second without any.
        streams: calls that last, as Stream and Wait, and are open at a time.
        jobs: that run or wait at a time.
        connections: that are open at a time.
    """

    calls_per_second: float = 0
    streams: float = 0
    jobs: float = 0
    connections: float = 0

    def over(self, other: Quota) -> Quota:
        """This quota, and where it says nothing, the other."""
        return Quota(*(getattr(self, each.name) or getattr(other, each.name) for each in fields(Quota)))


DEFAULT: Final = Quota(calls_per_second=2000, streams=1000, jobs=5000, connections=512)
"""So generous that whoever means well does not meet it, and less than all that there is."""


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """As :class:`jobd.worker.policy.LimitPolicy`: everyone's, over it those of roles, and over all those of some
    principals. What nobody speaks of is as in DEFAULT."""

    everyone: Quota = field(default_factory=Quota)
    principals: Mapping[str, Quota] = field(default_factory=dict)
    roles: Mapping[str, Quota] = field(default_factory=dict)

    def of(self, caller: Caller) -> Quota:
        """The quota of a principal; it speaks of everything."""
        quota = self.principals.get(caller.name, Quota())
        for role, its in self.roles.items():
            if role in caller.roles:
                quota = quota.over(its)
        return quota.over(self.everyone).over(DEFAULT)
