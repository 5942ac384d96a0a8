"""Certificates of one test's own, for tests in which they are changed while jobd runs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from api.identity import Role
from pki.authority import Authority
from pki.crl import make_crl
from pki.revocation import Reason, by_name, revoke
from tests.support.pki import TestPki


@dataclasses.dataclass(frozen=True)
class LivePki(TestPki):
    """A CA with a server, the writer ``alice``, the reader ``rita``, and a revocation list that is good for a day.

    Attributes:
        authority: the CA.
    """

    __test__ = False

    authority: Authority

    @classmethod
    def grow(cls, directory: Path, name: str = "live CA") -> Self:
        """Made in a directory of its own."""
        now = datetime.now(UTC)
        authority = Authority.create(directory, now=now, name=name, not_before=now - timedelta(days=30))
        made = cls(directory, authority)
        made.server_again()
        made.client("alice")
        made.client("rita", Role.READER)
        made.sign_list()
        return made

    @property
    def crl(self) -> Path:
        """Its revocation list."""
        return self.directory / "ca.crl"

    def client(self, name: str, role: Role = Role.WRITER, **period: Any) -> None:
        """Sign a client's certificate, perhaps another one in place of the last."""
        now = datetime.now(UTC)
        self.authority.issue_client(self.directory, name, [role], now=now, force=True, **period)

    def server_again(self, **period: Any) -> None:
        """Sign the server's, with a new key."""
        now = datetime.now(UTC)
        self.authority.issue_server(self.directory, ["localhost", "127.0.0.1"], now=now, force=True, **period)

    def revoke(self, name: str) -> None:
        """Revoke a client's certificate, and sign the list that says so."""
        now = datetime.now(UTC)
        revoke(self.directory, by_name(self.directory, name, now), Reason.KEY_COMPROMISE, now)
        self.sign_list()

    def sign_list(
        self, path: Path | None = None, *, now: datetime | None = None, lifetime: timedelta = timedelta(days=1)
    ) -> Path:
        """Sign the next list."""
        return make_crl(self.authority, now=now or datetime.now(UTC), lifetime=lifetime, path=path).path
