"""Who may run jobs as whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from api.errors import FieldViolation
from jobd.worker.errors import InvalidSpecError
from jobd.worker.identity import UnknownAccountError, gid_of, look_up, own
from jobd.worker.job import JobSpec
from jobd.worker.policy import Caller


@dataclass(frozen=True, slots=True)
class Accounts:
    """Those that somebody may run jobs as; None says nothing.

    Attributes:
        users: these and no others.
        groups: these, beside the user's own.
    """

    users: frozenset[str] | None = None
    groups: frozenset[str] | None = None

    def over(self, other: Accounts) -> Accounts:
        """These, and where they say nothing, the others."""
        return Accounts(
            other.users if self.users is None else self.users,
            other.groups if self.groups is None else self.groups,
        )


NOTHING_SAID = Accounts()


@dataclass(frozen=True, slots=True)
class RunAsPolicy:
    """Jobs run as the job user, unless some principals, or those who have a role, may run them as others.

    Attributes:
        job_user: its name; "" is the user that this process runs as.
    """

    job_user: str = ""
    principals: Mapping[str, Accounts] = field(default_factory=dict)
    roles: Mapping[str, Accounts] = field(default_factory=dict)

    def knows_without_looking(self, spec: JobSpec) -> bool:
        """:meth:`apply` does not block, because the job is to run as this process does."""
        return (spec.user or self.job_user) in ("", own().name) and not spec.group

    def apply(self, spec: JobSpec, caller: Caller) -> JobSpec:
        """The spec with the user that the job is to run as. May block: call it in a thread.

        What the caller may not run jobs as is refused in the same way whether there is such a user or not.

        Raises:
            InvalidSpecError: the caller may not, there is no such user or group, or this process cannot become it.
        """
        job_user = self.job_user or own().name
        user = spec.user or job_user
        allowed = self._allowed(caller)
        users = frozenset({job_user}) if allowed.users is None else allowed.users
        if user not in users:
            named = f"is {user!a}" if spec.user else f"is empty, which is {user!a} here"
            names = ", ".join(sorted(users)) or "no user at all"
            raise _refusal("user", f"{named}, and {caller.name} may run jobs as {names}")
        if user == own().name and not spec.group:
            return replace(spec, user=user)
        try:
            self._look_up(user, spec.group, allowed.groups or frozenset(), caller)
        except UnknownAccountError as exc:
            raise _refusal(exc.field, str(exc)) from exc
        if own().uid != 0:
            wrong = "user" if user != own().name else "group"
            raise _refusal(wrong, f"cannot be had: jobd does not run as root here, and all jobs run as {own().name}")
        return replace(spec, user=user)

    def permits(self, spec: JobSpec, caller: Caller) -> bool:
        """The caller may run jobs as this one runs. May block: call it in a thread."""
        try:
            self.apply(replace(spec, user=spec.user or own().name), caller)
        except InvalidSpecError:
            return False
        return True

    def _allowed(self, caller: Caller) -> Accounts:
        allowed = self.principals.get(caller.name, NOTHING_SAID)
        for role, accounts in self.roles.items():
            if role in caller.roles:
                allowed = allowed.over(accounts)
        return allowed

    @staticmethod
    def _look_up(user: str, group: str, others: frozenset[str], caller: Caller) -> None:
        identity = look_up(user)
        if group and gid_of(group) not in identity.groups and group not in others:
            raise _refusal("group", f"{group!a} is no group of {user}, and {caller.name} may use no other")


def _refusal(name: str, why: str) -> InvalidSpecError:
    return InvalidSpecError((FieldViolation(f"spec.{name}", why),))
