"""What a certificate, request or key is and may do, in plain words. Whether to trust it is not judged here.

The facts are plain values, for people and for JSON alike. Text in them is as it stands in the file: whoever prints
it escapes it.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.errors import CredentialsError, IdentityError
from api.identity import Role, principal_of
from pki.extensions import extension_name, purpose_names, usage_names
from pki.files import read_file
from pki.keys import key_kind
from pki.names import common_names, role_texts
from pki.reading import MAX_CRL_BYTES, is_pem, parsing
from pki.requests import is_signed
from pki.validity import utc_text

Facts = dict[str, str | int | bool | list[str] | None]
"""One fact for each key, in the order in which a person wants them."""

_SIDES: Final = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
_PEM_LABEL: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


def describe_file(path: Path, now: datetime) -> Facts:
    """What the first certificate, request or key in ``path`` is.

    Raises:
        CredentialsError: it cannot be read, or holds none of these.
    """
    content = read_file(path, "certificate, request, revocation list or key", MAX_CRL_BYTES)
    source = str(path)
    if not is_pem(content):
        return _describe_der(content, source, now)
    # openssl writes an EC key's parameters before the key.
    labels = [label.decode("ascii") for label in _PEM_LABEL.findall(content) if label != b"EC PARAMETERS"]
    facts = _describe_pem(content, labels[0] if labels else "", source, now)
    if len(labels) > 1:
        facts["not_shown"] = f"{len(labels) - 1} more in this file"
    return facts


def describe_certificate(certificate: x509.Certificate, now: datetime, source: str = "it") -> Facts:
    """What a certificate says; ``source`` is what messages call it.

    Raises:
        CredentialsError: a part of it cannot be parsed.
    """
    with parsing("certificate", source):
        return {
            "what": "certificate",
            **_standing(certificate),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            **_period(certificate, now),
            "key": key_kind(certificate.public_key()),
            "fingerprint_sha256": certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        }


def describe_request(csr: x509.CertificateSigningRequest, source: str = "it") -> Facts:
    """What a request asks for; ``source`` is what messages call it.

    Raises:
        CredentialsError: a part of it cannot be parsed.
    """
    signed = is_signed(csr, source)
    with parsing("certificate request", source):
        public = csr.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return {
            "what": "certificate request",
            "subject": csr.subject.rfc4514_string(),
            "asks_for_name": common_names(csr.subject),
            "asks_for_roles": role_texts(csr.subject),
            "asks_for_hosts": _hosts(csr.extensions),
            "asks_for_extensions": [extension_name(extension.value) for extension in csr.extensions],
            "signed_by_its_key": signed,
            "key": key_kind(csr.public_key()),
            "key_fingerprint_sha256": _sha256(public),
        }


def describe_crl(crl: x509.CertificateRevocationList, now: datetime, source: str = "it") -> Facts:
    """What a revocation list says; ``source`` is what messages call it.

    Raises:
        CredentialsError: a part of it cannot be parsed.
    """
    with parsing("revocation list", source):
        begin, end = crl.last_update_utc, crl.next_update_utc
        numbers = [ext.value.crl_number for ext in crl.extensions if isinstance(ext.value, x509.CRLNumber)]
        return {
            "what": "revocation list",
            "issuer": crl.issuer.rfc4514_string(),
            "number": next(iter(numbers), None),
            "this_update": utc_text(begin),
            "next_update": None if end is None else utc_text(end),
            "state": _state(begin, end, now),
            "days_left": None if end is None else int((end - now) / timedelta(days=1)),
            "revoked": [f"{line.serial_number:x}" for line in crl],
        }


def _describe_pem(content: bytes, label: str, source: str, now: datetime) -> Facts:
    match label:
        case "CERTIFICATE" | "X509 CERTIFICATE":
            with parsing("certificate", source):
                certificate = x509.load_pem_x509_certificate(content)
            return describe_certificate(certificate, now, source)
        case "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST":
            with parsing("certificate request", source):
                csr = x509.load_pem_x509_csr(content)
            return describe_request(csr, source)
        case "X509 CRL":
            with parsing("revocation list", source):
                crl = x509.load_pem_x509_crl(content)
            return describe_crl(crl, now, source)
        case "PUBLIC KEY":
            with parsing("public key", source):
                return {"what": "public key", "key": key_kind(serialization.load_pem_public_key(content))}
        case _ if label.endswith("PRIVATE KEY"):
            return _describe_key(content, source)
        case _:
            raise CredentialsError(f"{source} holds no certificate, request, revocation list or key")


def _describe_key(content: bytes, source: str) -> Facts:
    with parsing("private key", source):
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError:
            return {"what": "private key", "key": "encrypted: its kind cannot be seen"}
    return {"what": "private key", "key": key_kind(key)}


def _describe_der(content: bytes, source: str, now: datetime) -> Facts:
    for label in ("CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL", "PRIVATE KEY"):
        try:
            return _describe_pem(_as_pem(content, label), label, source, now)
        except CredentialsError:
            continue
    raise CredentialsError(f"{source} holds no certificate, request, revocation list or key that can be read")


def _as_pem(der: bytes, label: str) -> bytes:
    # One parser for both forms; ssl.DER_cert_to_PEM_cert does certificates only.
    body = base64.encodebytes(der)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), body, label.encode())


def _standing(certificate: x509.Certificate) -> Facts:
    """Which profile the certificate is of, what it may do, and for whom."""
    subject: Facts = {"subject": certificate.subject.rfc4514_string()}
    ca, purposes, usage = _limits(certificate.extensions)
    if ca:
        return {"profile": "CA", "may": "sign certificates, for all who trust it", **subject, "usage": usage}
    sides = [side for side, purpose in _SIDES.items() if purposes is None or purpose in purposes]
    facts: Facts = {"profile": " and ".join(sides) or "other", "may": "nothing here", **subject}
    if "server" in sides:
        facts |= {"may": "prove to clients that it is one of its hosts", "hosts": _hosts(certificate.extensions)}
    if "client" in sides:
        facts |= _principal(certificate, also=str(facts["may"]) if "server" in sides else "")
    return {**facts, "usage": usage}


def _principal(certificate: x509.Certificate, also: str) -> Facts:
    try:
        principal = principal_of(certificate)
    except IdentityError as exc:
        return {"may": "; ".join(filter(None, [also, f"not be used by a client: {exc}"]))}
    return {
        "may": "; ".join(filter(None, [also, _rights(principal.roles)])),
        "principal": principal.name,
        "roles": sorted(principal.roles),
    }


def _rights(roles: frozenset[Role]) -> str:
    if not roles:
        return "connect, but do nothing: it has no role"
    rights = []
    if Role.WRITER in roles:
        rights.append("start and stop jobs, and query, stream, list and wait")
    elif Role.READER in roles:
        rights.append("query, stream, list and wait for jobs, but neither start nor stop them")
    if Role.BROKER in roles:
        rights.append("hand on the calls of others, as a broker of a pool")
    return "; ".join(rights)


def _limits(extensions: x509.Extensions) -> tuple[bool, list[x509.ObjectIdentifier] | None, list[str]]:
    """Whether it is a CA's; its extended key usages (None: no limit); and all its usages by name."""
    ca, purposes, usage = False, None, list[str]()
    for value in (extension.value for extension in extensions):
        match value:
            case x509.BasicConstraints():
                ca = value.ca
            case x509.ExtendedKeyUsage():
                purposes = list(value)
            case x509.KeyUsage():
                usage = usage_names(value)
    return ca, purposes, usage + purpose_names(purposes or [])


def _hosts(extensions: x509.Extensions) -> list[str]:
    return [
        str(name.value)
        for extension in extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value
    ]


def _period(certificate: x509.Certificate, now: datetime) -> Facts:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return {
        "valid_from": utc_text(begin),
        "valid_until": utc_text(end),
        "state": _state(begin, end, now),
        "days_left": int((end - now) / timedelta(days=1)),
    }


def _state(begin: datetime, end: datetime | None, now: datetime) -> str:
    if end is not None and now > end:
        return "expired"
    return "not yet valid" if now < begin else "valid"


def _sha256(content: bytes) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(content)
    return digest.finalize().hex(":").upper()
