"""What keeps a job from the machine and from other jobs, beside the user that it runs as.

Implemented by ``jobd.limits.isolation``; what it says is carried out by ``jobd.launcher``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Protocol

SANDBOXED: Final = ("private_tmp", "read_only_root", "no_network", "pid_namespace")
"""Those that it takes a sandbox to have."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What was asked for; the names are those of the contract.

    Attributes:
        private_tmp: directories for temporary files of its own, in memory, which end with it.
        read_only_root: every file system is read-only, but for a private /tmp.
        no_network: a network of its own, with nothing in it.
        pid_namespace: it sees no processes but its own.
        drop_capabilities: it has no capability (capabilities(7)), nor can it get one.
        allow_new_privileges: set-user-ID programs and the like work as usual; else they give nothing.
    """

    private_tmp: bool = False
    read_only_root: bool = False
    no_network: bool = False
    pid_namespace: bool = False
    drop_capabilities: bool = False
    allow_new_privileges: bool = False

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of those that were asked for."""
        if self is NO_ISOLATION:  # as for most jobs
            return ()
        return tuple(each.name for each in fields(self) if getattr(self, each.name))

    @property
    def sandboxed(self) -> bool:
        """It takes a sandbox."""
        return any(getattr(self, name) for name in SANDBOXED)

    def contradictions(self) -> list[tuple[str, str]]:
        """The fields that cannot be had together with others, and why."""
        if not self.allow_new_privileges or self.asked == ("allow_new_privileges",):
            return []
        others = ", ".join(name for name in self.asked if name != "allow_new_privileges")
        return [("allow_new_privileges", f"cannot be had together with {others}")]


NO_ISOLATION: Final = Isolation()


class Sandbox(Protocol):
    """A program that makes sandboxes."""

    @property
    def gains(self) -> bool:
        """It is set-user-ID: an ordinary user must not be kept from gaining privileges by it. It keeps from that what
        it executes."""

    def command(self, isolation: Isolation, uid: int) -> list[str]:
        """The command, for this user, to which is added what is to be executed in such a sandbox."""


@dataclass(frozen=True, slots=True)
class Means:
    """What can be had of it on this machine.

    Attributes:
        missing: what cannot, and why, for people.
        weaknesses: what is weaker than it could be, for people.
    """

    sandbox: Sandbox | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    weaknesses: Sequence[str] = ()

    @property
    def available(self) -> list[str]:
        """The names of those that can be had, in the order of the contract."""
        return [each.name for each in fields(Isolation) if each.name not in self.missing]

    def without_sandbox(self, why: str) -> Means:
        """The same where no sandbox can be made."""
        lacking = dict.fromkeys(SANDBOXED, f"{CANNOT}: {why}")
        said = f"{', '.join(SANDBOXED)} {CANNOT}: {why}"
        return replace(self, sandbox=None, missing={**self.missing, **lacking}, weaknesses=(said,))

    def without_any(self, why: str) -> Means:
        """The same where nothing at all can be done."""
        less = self.without_sandbox(why)
        missing = {**less.missing, "drop_capabilities": f"{CANNOT}: {why}"}
        return replace(less, missing=missing, weaknesses=(f"isolation {CANNOT}: {why}",))

    def refused(self, isolation: Isolation) -> list[tuple[str, str]]:
        """The names of what was asked for that cannot be had, and why."""
        return [(name, self.missing[name]) for name in isolation.asked if name in self.missing]


CANNOT: Final = "cannot be had here"
NOT_ALLOWED: Final = "is not allowed by the server's configuration (allow-new-privileges)"
NO_MEANS: Final = Means(missing={"allow_new_privileges": NOT_ALLOWED}).without_sandbox("nothing makes sandboxes")
