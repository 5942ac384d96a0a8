"""Who a certificate names, and what that principal may be.

The subject's one ``CN`` is the principal's name, each ``O=jobd:<role>`` is a role: the way Kubernetes and
Teleport put groups into certificates, so any CA can issue one, ``openssl`` included. Organisations without the
``jobd:`` prefix, and roles that this version does not know, grant nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from api.errors import IdentityError
from api.roles import Role as Role  # who asks who somebody is asks what they may be

ROLE_PREFIX: Final = "jobd:"
MAX_NAME: Final = 64
"""The upper bound on a common name: ub-common-name of RFC 5280, appendix A.1."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A peer whose certificate was verified.

    Attributes:
        name: the subject's common name.
        roles: the roles that this version knows; may be empty.
        serial: the certificate's serial number, in lower-case hex (as ``openssl x509 -serial`` prints it, lowered).
    """

    name: str
    roles: frozenset[Role]
    serial: str


def check_name(name: str) -> str:
    """Return ``name`` if it can be a principal: 1 to 64 printable characters, no space at either end.

    Raises:
        IdentityError: it cannot; the message says why, with the name escaped.
    """
    if not name or len(name) > MAX_NAME:
        raise IdentityError(f"a principal's name has 1 to {MAX_NAME} characters; this one has {len(name)}")
    if not name.isprintable() or name != name.strip():
        raise IdentityError(f"a principal's name is printable, with no space at either end; this one is {name!a}")
    return name


def subject_for(name: str, roles: Iterable[Role]) -> x509.Name:
    """The subject that makes ``name`` a principal with ``roles`` (one ``O`` each, sorted; then the ``CN``).

    Raises:
        IdentityError: the name cannot be a principal.
    """
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ROLE_PREFIX + role) for role in sorted(set(roles))]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, check_name(name))])


def roles_in(subject: x509.Name) -> frozenset[Role]:
    """The roles that a subject carries and this version knows."""
    values = {_text(attribute) for attribute in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
    return frozenset(role for role in Role if ROLE_PREFIX + role in values)


def principal_of(certificate: x509.Certificate) -> Principal:
    """The principal that a certificate names. Says nothing about whether the certificate is to be trusted.

    Raises:
        IdentityError: there is no common name, or more than one, or it cannot be a principal's name.
    """
    names = [_text(attribute) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        raise IdentityError(f"the certificate's subject has {len(names)} common names; a principal has exactly one")
    return Principal(check_name(names[0]), roles_in(certificate.subject), f"{certificate.serial_number:x}")


def principal_of_der(der: bytes) -> Principal:
    """:func:`principal_of` for the DER form that a TLS connection gives.

    Raises:
        IdentityError: also when the bytes are not a certificate that can be read.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        return principal_of(certificate)
    except (ValueError, x509.InvalidVersion) as exc:  # OpenSSL takes versions that there are not
        raise IdentityError("the certificate cannot be parsed") from exc


def _text(attribute: x509.NameAttribute[str | bytes]) -> str:
    value = attribute.value
    return value if isinstance(value, str) else value.decode("latin-1")
