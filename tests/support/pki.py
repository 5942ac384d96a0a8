"""Certificates for tests, made once for a run."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from api.identity import Role
from api.tls import client_context
from pki.authority import Authority

DAY = timedelta(days=1)


@dataclass(frozen=True)
class TestPki:
    """A directory of certificates.

    Clients: ``alice`` (writer), ``rita`` (reader), ``both``, ``broker``, ``nobody`` (no role), ``expired`` (writer,
    until yesterday), ``stranger`` (writer, from another CA).
    """

    __test__ = False

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Self:
        now = datetime.now(UTC)
        ours = Authority.create(directory, now=now, not_before=now - 10 * DAY)
        ours.issue_server(directory, ["localhost", "127.0.0.1"], now=now)
        ours.issue_client(directory, "alice", [Role.WRITER], now=now)
        ours.issue_client(directory, "rita", [Role.READER], now=now)
        ours.issue_client(directory, "both", [Role.READER, Role.WRITER], now=now)
        ours.issue_client(directory, "broker", [Role.BROKER], now=now)
        ours.issue_client(directory, "nobody", [], now=now)
        ours.issue_client(directory, "expired", [Role.WRITER], now=now, not_before=now - 3 * DAY, not_after=now - DAY)
        other = Authority.create(directory / "other", now=now, name="another CA")
        other.issue_client(directory, "stranger", [Role.WRITER], now=now)
        other.issue_server(directory / "other", ["localhost", "127.0.0.1"], now=now)
        return cls(directory)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def credentials(self, name: str) -> dict[str, Path]:
        """What ``JobClient.connect`` takes."""
        return {"cert": self.certificate(name), "key": self.key(name), "ca": self.ca}

    def context(self, name: str) -> ssl.SSLContext:
        return client_context(certificate=self.certificate(name), key=self.key(name), ca=self.ca)

    def server(self) -> dict[str, Path]:
        """What ``Config`` takes."""
        return {"cert": self.certificate("server"), "key": self.key("server"), "ca": self.ca}
