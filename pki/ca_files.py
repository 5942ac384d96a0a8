"""A CA's own files: its certificate with those of the CAs above it, and its key.

``ca.crt`` begins with the CA's certificate. A root's stands alone; an intermediate's is followed by the one that
issued it, and so on up to the root, so that the same file is what servers and clients are to trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from api.errors import CredentialsError
from pki.certificates import is_self_issued, may_sign
from pki.files import is_missing
from pki.keys import SigningKey, accept_public, public_bytes
from pki.reading import Ask, load_certificates, load_key, parsing

CERTIFICATE_NAME: Final = "ca.crt"
KEY_NAME: Final = "ca.key"


@dataclass(frozen=True, slots=True)
class Chain:
    """A CA's certificate, and those above it.

    Attributes:
        certificate: the CA's own.
        above: who issued it, who issued that, and so on; empty for a root.
    """

    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @property
    def all(self) -> tuple[x509.Certificate, ...]:
        """From the CA's own certificate up."""
        return (self.certificate, *self.above)

    @property
    def sent(self) -> tuple[x509.Certificate, ...]:
        """What goes with each leaf: all but the root, which its peers have (RFC 8446, section 4.4.2)."""
        return tuple(certificate for certificate in self.all if not is_self_issued(certificate))


def load_chain(directory: Path) -> Chain:
    """The certificate of the CA in ``directory``, and those above it. Whether one has expired is not asked here.

    Raises:
        CredentialsError: there is none, or it is unreadable, damaged or no CA's, or the chain is not in order.
    """
    path = directory / CERTIFICATE_NAME
    if is_missing(path):
        raise CredentialsError(
            f"there is no CA in {directory} ({CERTIFICATE_NAME} is missing): name its directory, or make one "
            f"with jobpki init"
        )
    return read_chain(path)


def read_chain(path: Path) -> Chain:
    """The chain of a CA in ``path``. What follows a root's certificate (another root, say) is not a part of it.

    Raises:
        CredentialsError: it is unreadable, damaged or no CA's, or the chain is not in order.
    """
    certificates = load_certificates(path, "CA certificate")
    with parsing("CA certificate", str(path)):
        chain = _chain(certificates)
        for position, certificate in enumerate(chain.all):
            accept_public(certificate.public_key(), str(path))
            if not may_sign(certificate):
                raise CredentialsError(
                    f"{path} is not a CA's certificate (basicConstraints, keyUsage): it may not sign"
                    if position == 0
                    else f"certificate {position + 1} in {path} is not a CA's: it may not sign"
                )
    _check_order(chain, path)
    return chain


def load_ca_key(directory: Path, chain: Chain, ask: Ask | None = None, certificate: Path | None = None) -> SigningKey:
    """The key of the CA in ``directory``; ``ask`` gives its passphrase if it is encrypted.

    ``certificate`` is where the chain is, if that is not (yet) the CA's directory.

    Raises:
        CredentialsError: it is missing, unreadable or damaged, or is not that of the CA's certificate.
        PassphraseError: it is encrypted and there is no passphrase, or a wrong one.
    """
    path = directory / KEY_NAME
    key = load_key(path, "CA key", ask)
    certificate = certificate or directory / CERTIFICATE_NAME
    public = accept_public(chain.certificate.public_key(), str(certificate))
    if public_bytes(public) != public_bytes(key.public_key()):
        raise CredentialsError(f"{path} is not the key of {certificate}: put the right one in its place")
    return key


def has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether ``issuer``'s name is in ``certificate``, and its key has signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def end_of(chain: Chain) -> x509.Certificate:
    """The certificate that ends first: nothing signed is valid for longer."""
    return min(chain.all, key=lambda certificate: certificate.not_valid_after_utc)


def _chain(certificates: list[x509.Certificate]) -> Chain:
    own, *rest = certificates
    if is_self_issued(own):
        return Chain(own)
    above = list[x509.Certificate]()
    for certificate in rest:
        above.append(certificate)
        if is_self_issued(certificate):
            break
    return Chain(own, tuple(above))


def _check_order(chain: Chain, path: Path) -> None:
    for position, (certificate, issuer) in enumerate(zip(chain.all, chain.above, strict=False), 1):
        if not has_issued(issuer, certificate):
            raise CredentialsError(
                f"{path} is not in order: certificate {position + 1} has not issued certificate {position} "
                f"(a CA's own comes first, then each one's issuer, the root last)"
            )
