"""The three kinds of certificates, and every extension of each (RFC 5280, section 4.2).

A leaf is for one side only: a server's certificate cannot be used to log in, a client's cannot pose as a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.errors import ConfigError
from api.identity import Role, subject_for
from pki.hosts import Host, host_text
from pki.keys import VerifyingKey

MAX_COMMON_NAME: Final = 64
"""ub-common-name of RFC 5280, appendix A.1."""

CA_LIFETIME: Final = timedelta(days=3650)
CA_NAME: Final = "jobd CA"
INTERMEDIATE_NAME: Final = "jobd intermediate CA"

CA_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
LEAF_BASIC: Final = x509.BasicConstraints(
    ca=False,
    path_length=None,
)
LEAF_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of certificate that a CA signs.

    Attributes:
        name: its name in commands, messages and the index.
        lifetime: how long it is valid unless the issuer says otherwise.
        key_usage: what its key may do.
        purpose: the one extended key usage; None for a CA, which has none.
        has_hosts: whether it carries a subject alternative name.
        has_roles: whether its subject names a principal and roles.
    """

    name: str
    lifetime: timedelta
    key_usage: x509.KeyUsage
    purpose: x509.ObjectIdentifier | None
    has_hosts: bool = False
    has_roles: bool = False

    @property
    def is_ca(self) -> bool:
        """Whether it signs others."""
        return self.purpose is None


SERVER: Final = Profile("server", timedelta(days=397), LEAF_USAGE, ExtendedKeyUsageOID.SERVER_AUTH, has_hosts=True)
CLIENT: Final = Profile("client", timedelta(days=90), LEAF_USAGE, ExtendedKeyUsageOID.CLIENT_AUTH, has_roles=True)
INTERMEDIATE: Final = Profile("ca", timedelta(days=1825), CA_USAGE, None)


def profile_name(certificate: x509.Certificate) -> str:
    """The name of the profile that a certificate is of, or "other" if it is of none."""
    values = [extension.value for extension in certificate.extensions]
    if any(isinstance(value, x509.BasicConstraints) and value.ca for value in values):
        return INTERMEDIATE.name
    purposes = [list(value) for value in values if isinstance(value, x509.ExtendedKeyUsage)]
    return next((profile.name for profile in (SERVER, CLIENT) if purposes == [[profile.purpose]]), "other")


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension's value, and whether a peer that does not know it must refuse the certificate."""

    value: x509.ExtensionType
    critical: bool = False


def ca_extensions(
    key: VerifyingKey, issuer: x509.SubjectKeyIdentifier | None = None, path_length: int = 0
) -> list[Extension]:
    """What makes a certificate with ``key`` a CA.

    Args:
        key: its own public key.
        issuer: the key identifier of the CA above it; None for a root, which is its own.
        path_length: how many CAs may stand below it in one chain: with 0 it signs leaves only.
    """
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    return [
        Extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True),
        Extension(CA_USAGE, critical=True),
        Extension(own),
        Extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own if issuer is None else issuer)),
    ]


def leaf_extensions(
    profile: Profile,
    key: VerifyingKey,
    issuer: x509.SubjectKeyIdentifier,
    hosts: Sequence[Host] = (),
) -> list[Extension]:
    """What makes a certificate with ``key`` a leaf of ``profile``; ``issuer`` is its CA's key identifier."""
    purposes = [] if profile.purpose is None else [profile.purpose]
    extensions = [
        Extension(LEAF_BASIC, critical=True),
        Extension(LEAF_USAGE, critical=True),
        Extension(x509.ExtendedKeyUsage(purposes)),
        Extension(x509.SubjectKeyIdentifier.from_public_key(key)),
        Extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)),
    ]
    if profile.has_hosts:
        extensions.append(host_extension(hosts))
    return extensions


def host_extension(hosts: Sequence[Host]) -> Extension:
    """The subject alternative name; critical only where the subject is empty (RFC 5280, section 4.1.2.6).

    Raises:
        ConfigError: there is no host.
    """
    if not hosts:
        raise ConfigError("a server's certificate names at least one host: give --host")
    return Extension(x509.SubjectAlternativeName(hosts), critical=not server_subject(hosts).rdns)


def server_subject(hosts: Sequence[Host]) -> x509.Name:
    """The first host as the common name, for people to read; left out if it is too long (peers read the SAN)."""
    name = host_text(hosts[0])
    if len(name) > MAX_COMMON_NAME:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def principal_subject(name: str, roles: Iterable[Role] = ()) -> x509.Name:
    """:func:`api.identity.subject_for`, for names that come from a flag or a request.

    Raises:
        IdentityError: the name cannot be a principal.
        ConfigError: it has too many bytes: ``cryptography`` counts them, where RFC 5280 counts characters.
    """
    try:
        return subject_for(name, roles)
    except ValueError as exc:
        raise ConfigError(f"the name {name!a} has more than {MAX_COMMON_NAME} bytes in UTF-8: shorten it") from exc
