"""Which extensions a request may ask for: those that its profile grants anyway, and no more of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.errors import ConfigError
from pki.errors import RequestRefusedError
from pki.hosts import Host, parse_host
from pki.keys import VerifyingKey
from pki.profiles import Profile
from pki.reading import parsing

USAGES: Final = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
    "encipher_only": "encipherOnly",
    "decipher_only": "decipherOnly",
}
"""The bits of a key usage: ``cryptography``'s names, and those of RFC 5280, section 4.2.1.3, which OpenSSL takes."""

PURPOSES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}
"""Extended key usages by the names of RFC 5280, section 4.2.1.12."""


def check_extensions(csr: x509.CertificateSigningRequest, key: VerifyingKey, profile: Profile, source: str) -> None:
    """See that a request asks for nothing beyond ``profile``. Its hosts are judged elsewhere.

    Raises:
        RequestRefusedError: it does; the message names the extension.
    """
    with parsing("list of extensions", source):
        extensions = list(csr.extensions)
    for extension in extensions:
        excess = _excess(extension.value, key, profile)
        if excess:
            raise RequestRefusedError(f"{source} asks {excess}; a {profile.name}'s certificate is not granted that")


def requested_hosts(csr: x509.CertificateSigningRequest, source: str) -> tuple[Host, ...]:
    """The hosts in a request's subject alternative name; none if it has no such extension.

    Raises:
        RequestRefusedError: there is an entry that is neither a DNS name nor an IP address, or is a bad one.
    """
    with parsing("list of extensions", source):
        extensions = csr.extensions
    return host_names(extensions, source)


def host_names(extensions: x509.Extensions, source: str) -> tuple[Host, ...]:
    """The hosts in a subject alternative name.

    Raises:
        RequestRefusedError: there is an entry that is neither a DNS name nor an IP address, or is a bad one.
    """
    names = [name for extension in extensions for name in _alternative_names(extension.value)]
    return tuple(dict.fromkeys(_host(name, source) for name in names))


def usage_names(usage: x509.KeyUsage) -> list[str]:
    """The bits that are set, by the names of RFC 5280."""
    # The last two may only be looked at if keyAgreement is set.
    readable = [name for name in USAGES if usage.key_agreement or not name.endswith("_only")]
    return [USAGES[name] for name in readable if getattr(usage, name)]


def purpose_names(usage: Iterable[x509.ObjectIdentifier]) -> list[str]:
    """The extended key usages by name, or by OID if they have none here."""
    return [PURPOSES.get(oid, oid.dotted_string) for oid in usage]


def extension_name(value: x509.ExtensionType) -> str:
    """The extension's name with its OID, or the OID alone if nothing here knows it."""
    oid = value.oid.dotted_string
    return oid if isinstance(value, x509.UnrecognizedExtension) else f"{type(value).__name__} ({oid})"


def _excess(value: x509.ExtensionType, key: VerifyingKey, profile: Profile) -> str:
    """What in an extension goes beyond the profile, in words; "" if nothing does."""
    match value:
        case x509.BasicConstraints():
            return "to be a CA (basicConstraints CA:TRUE)" if value.ca and not profile.is_ca else ""
        case x509.KeyUsage():
            return _listed("for the key usage", set(usage_names(value)) - set(usage_names(profile.key_usage)))
        case x509.ExtendedKeyUsage():
            return _listed("for the extended key usage", purpose_names(oid for oid in value if oid != profile.purpose))
        case x509.SubjectKeyIdentifier() if value == x509.SubjectKeyIdentifier.from_public_key(key):
            return ""
        case x509.SubjectAlternativeName() if profile.has_hosts:
            return ""
        case _:
            return f"for the extension {extension_name(value)}"


def _listed(what: str, names: Iterable[str]) -> str:
    text = ", ".join(sorted(names))
    return f"{what} {text}" if text else ""


def _alternative_names(value: x509.ExtensionType) -> list[x509.GeneralName]:
    return list(value) if isinstance(value, x509.SubjectAlternativeName) else []


def _host(name: x509.GeneralName, source: str) -> Host:
    if not isinstance(name, x509.DNSName | x509.IPAddress):
        raise RequestRefusedError(
            f"{source} asks for the alternative name {str(name.value)!a}, which is neither a DNS name nor an IP address"
        )
    try:
        return parse_host(str(name.value))
    except ConfigError as exc:
        raise RequestRefusedError(f"{source}: {exc}") from exc
