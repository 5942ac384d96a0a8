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


@dataclass(frozen=True, slots=True)
class Leaf:
    """A kind of certificate that signs nothing.

    Attributes:
        name: its name in commands and messages.
        usage: the one extended key usage.
        lifetime: how long it is valid unless the issuer says otherwise.
        has_hosts: whether it carries a subject alternative name.
        has_roles: whether its subject names a principal and roles.
    """

    name: str
    usage: x509.ObjectIdentifier
    lifetime: timedelta
    has_hosts: bool = False
    has_roles: bool = False


SERVER: Final = Leaf("server", ExtendedKeyUsageOID.SERVER_AUTH, timedelta(days=397), has_hosts=True)
CLIENT: Final = Leaf("client", ExtendedKeyUsageOID.CLIENT_AUTH, timedelta(days=90), has_roles=True)

CA_BASIC: Final = x509.BasicConstraints(
    ca=True,
    path_length=0,
)
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
class Extension:
    """An extension's value, and whether a peer that does not know it must refuse the certificate."""

    value: x509.ExtensionType
    critical: bool = False


def ca_extensions(key: VerifyingKey) -> list[Extension]:
    """What makes a certificate with ``key`` a CA that signs leaves only."""
    own = x509.SubjectKeyIdentifier.from_public_key(key)
    return [
        Extension(CA_BASIC, critical=True),
        Extension(CA_USAGE, critical=True),
        Extension(own),
        Extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)),
    ]


def leaf_extensions(
    profile: Leaf,
    key: VerifyingKey,
    issuer: x509.SubjectKeyIdentifier,
    hosts: Sequence[Host] = (),
) -> list[Extension]:
    """What makes a certificate with ``key`` a leaf of ``profile``; ``issuer`` is its CA's key identifier."""
    extensions = [
        Extension(LEAF_BASIC, critical=True),
        Extension(LEAF_USAGE, critical=True),
        Extension(x509.ExtendedKeyUsage([profile.usage])),
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
