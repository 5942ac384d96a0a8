"""What jobs may use: what holds for one that does not say, and what one may ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace

from api.errors import FieldViolation
from jobd.worker.containment import NO_LIMITS, Limits
from jobd.worker.errors import InvalidSpecError
from jobd.worker.job import LIMITS


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a job.

    Attributes:
        name: the principal.
        roles: those that the principal has.
    """

    name: str
    roles: Collection[str] = ()


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


NO_BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """Everyone's bounds, over them those of roles (the first of those that the caller has foremost), and over all
    those of some principals."""

    everyone: Bounds = field(default_factory=Bounds)
    principals: Mapping[str, Bounds] = field(default_factory=dict)
    roles: Mapping[str, Bounds] = field(default_factory=dict)

    def apply(self, asked: Limits, caller: Caller) -> Limits:
        """The limits that hold for a job of this caller.

        Raises:
            InvalidSpecError: more was asked for than the caller may; it names each.
        """
        bounds = self._bounds(caller)
        violations = tuple(
            FieldViolation(
                f"spec.limits.{LIMITS[name][0]}", f"is {wanted:.15g}, and {caller.name} may ask for {most:.15g}"
            )
            for name, wanted, most in asked.beyond(bounds.ceiling)
        )
        if violations:
            raise InvalidSpecError(violations)
        filled = _over(asked, bounds.default)
        if bounds.ceiling == NO_LIMITS:
            return filled
        lowered = {name: most for name, value, most in _pairs(filled, bounds.ceiling) if most and not 0 < value <= most}
        return replace(filled, **lowered)  # type: ignore[arg-type] # each has the type of its own field

    def _bounds(self, caller: Caller) -> Bounds:
        bounds = self.principals.get(caller.name, NO_BOUNDS)
        for role, own in self.roles.items():
            if role in caller.roles:
                bounds = bounds.over(own)
        return bounds.over(self.everyone)

    @property
    def contained(self) -> frozenset[str]:
        """The names of the limits in it that it takes a containment to hold."""
        some = (*self.principals.values(), *self.roles.values())
        return self.everyone.contained.union(*(bounds.contained for bounds in some))


def _over(first: Limits, second: Limits) -> Limits:
    if NO_LIMITS in (first, second):
        return second if first == NO_LIMITS else first
    return Limits(**{each.name: getattr(first, each.name) or getattr(second, each.name) for each in fields(Limits)})


def _pairs(first: Limits, second: Limits) -> list[tuple[str, float, float]]:
    return [(each.name, getattr(first, each.name), getattr(second, each.name)) for each in fields(Limits)]
