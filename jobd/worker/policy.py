"""What jobs may use: what holds for one that does not say, and what one may ask for, for everyone or one principal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from api.errors import FieldViolation
from jobd.worker.containment import Limits
from jobd.worker.errors import InvalidSpecError
from jobd.worker.job import LIMITS


@dataclass(frozen=True, slots=True)
class Bounds:
    """For those whom it is about; 0 says nothing.

    Attributes:
        default: what holds for a job that does not say.
        ceiling: what a job may ask for at the most. It holds for one that does not ask, too.
    """

    default: Limits = field(default_factory=Limits)
    ceiling: Limits = field(default_factory=Limits)

    def over(self, other: Bounds) -> Bounds:
        """These bounds, and where they say nothing, the others."""
        return Bounds(_over(self.default, other.default), _over(self.ceiling, other.ceiling))

    @property
    def contained(self) -> frozenset[str]:
        """The names of the limits in it that it takes a containment to hold."""
        return self.default.contained | self.ceiling.contained


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Everyone's bounds, and over them those of some principals."""

    everyone: Bounds = field(default_factory=Bounds)
    principals: Mapping[str, Bounds] = field(default_factory=dict)

    def apply(self, asked: Limits, principal: str) -> Limits:
        """The limits that hold for a job of this principal.

        Raises:
            InvalidSpecError: more was asked for than the principal may; it names each.
        """
        bounds = self.principals.get(principal, self.everyone)
        violations = tuple(
            FieldViolation(f"spec.limits.{LIMITS[name][0]}", f"is {wanted:g}, and {principal} may ask for {most:g}")
            for name, wanted, most in _pairs(asked, bounds.ceiling)
            if most and wanted > most
        )
        if violations:
            raise InvalidSpecError(violations)
        filled = _over(asked, bounds.default)
        lowered = {name: most for name, value, most in _pairs(filled, bounds.ceiling) if most and not 0 < value <= most}
        return replace(filled, **lowered)  # type: ignore[arg-type] # each has the type of its own field

    @property
    def contained(self) -> frozenset[str]:
        """The names of the limits in it that it takes a containment to hold."""
        return self.everyone.contained.union(*(bounds.contained for bounds in self.principals.values()))


def _over(first: Limits, second: Limits) -> Limits:
    return Limits(**{each.name: getattr(first, each.name) or getattr(second, each.name) for each in fields(Limits)})


def _pairs(first: Limits, second: Limits) -> list[tuple[str, float, float]]:
    return [(each.name, getattr(first, each.name), getattr(second, each.name)) for each in fields(Limits)]
