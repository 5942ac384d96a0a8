"""The files of a leaf: its key, its request, and its certificate with those of the intermediate CAs above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pki.certificates import certificate_file
from pki.files import NewFile, check_stem, check_targets
from pki.keys import SigningKey
from pki.requests import csr_file, key_file


@dataclass(frozen=True, slots=True)
class IssuedFiles:
    """Where the three files of a new leaf are."""

    key: Path
    csr: Path
    certificate: Path

    @classmethod
    def named(cls, directory: Path, stem: str) -> IssuedFiles:
        """The files of this stem in ``directory``.

        Raises:
            ConfigError: the stem cannot be one.
        """
        check_stem(stem)
        return cls(directory / f"{stem}.key", directory / f"{stem}.csr", directory / f"{stem}.crt")

    def check(self, *, force: bool) -> IssuedFiles:
        """See that all three can be made, before anything is signed.

        Raises:
            ConfigError: one cannot, or is there already and ``force`` is off.
        """
        check_targets([self.key, self.csr, self.certificate], force=force)
        return self

    def contents(
        self,
        key: SigningKey,
        csr: x509.CertificateSigningRequest,
        certificates: Sequence[x509.Certificate],
        passphrase: bytes | None = None,
    ) -> list[NewFile]:
        """All three, still to be written."""
        return [
            key_file(self.key, key, passphrase=passphrase),
            csr_file(self.csr, csr),
            certificate_file(self.certificate, *certificates),
        ]
