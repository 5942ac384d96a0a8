"""Certificate requests (PKCS #10, RFC 2986): how ours are made, and what of anybody's is granted.

A certificate is never copied from a request. The signer's profile writes it, and a request that asks for more is
refused, so that nobody finds out later that they hold less than they asked for. What carries no right here (a
country, other organisations, a challenge password) is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from api.errors import IdentityError
from api.identity import Role, check_name
from pki.errors import RequestRefusedError
from pki.extensions import check_extensions, requested_hosts
from pki.files import KEY_MODE, NewFile
from pki.hosts import Host, host_text
from pki.keys import SigningKey, VerifyingKey, accept_public, key_pem, signature_hash
from pki.names import common_names, role_texts
from pki.profiles import CLIENT, INTERMEDIATE, SERVER, Profile, host_extension, principal_subject, server_subject
from pki.reading import load_request, parsing


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request, and where it is from (for messages)."""

    csr: x509.CertificateSigningRequest
    source: str

    @classmethod
    def load(cls, path: Path) -> Request:
        """Read a request from a PEM or DER file; what it asks for is not judged yet.

        Raises:
            CredentialsError: it cannot be read.
        """
        return cls(load_request(path), str(path))


# Making


def server_request(key: SigningKey, hosts: Sequence[Host]) -> x509.CertificateSigningRequest:
    """A request for a server's certificate for ``hosts``.

    Raises:
        ConfigError: there is no host.
    """
    names = host_extension(hosts)
    builder = x509.CertificateSigningRequestBuilder(server_subject(hosts))
    return builder.add_extension(names.value, names.critical).sign(key, signature_hash(key))


def client_request(key: SigningKey, name: str) -> x509.CertificateSigningRequest:
    """A request for a client's certificate for the principal ``name``; roles are left to the signer.

    Raises:
        IdentityError, ConfigError: the name cannot be a principal.
    """
    builder = x509.CertificateSigningRequestBuilder(principal_subject(name))
    return builder.sign(key, signature_hash(key))


def ca_request(key: SigningKey, name: str) -> x509.CertificateSigningRequest:
    """A request for an intermediate CA's certificate with the common name ``name``.

    Raises:
        IdentityError, ConfigError: the name cannot be used.
    """
    builder = x509.CertificateSigningRequestBuilder(principal_subject(name))
    basic = x509.BasicConstraints(ca=True, path_length=None)  # how long a path, the signer says
    return builder.add_extension(basic, critical=True).sign(key, signature_hash(key))


# Judging


def grant_server(request: Request, allowed: Sequence[Host]) -> tuple[Host, ...]:
    """The hosts that a server's certificate for ``request`` will name: ``allowed``, or if empty those it asks for.

    Raises:
        RequestRefusedError: it is damaged, asks for something that a server may not have or for a host that is not
            allowed, or there is no host at all.
        CredentialsError: its key is of a kind that is not accepted.
    """
    _check(request, SERVER, roles=())
    for name in _common_names(request):
        _check_name(request, name)
    wanted = requested_hosts(request.csr, request.source)
    beyond = [host_text(host) for host in wanted if allowed and host not in allowed]
    if beyond:
        raise RequestRefusedError(f"{request.source} asks for hosts that --host does not allow: {', '.join(beyond)}")
    if not allowed and not wanted:
        raise RequestRefusedError(f"{request.source} names no host, and a server's certificate must: give --host")
    return tuple(allowed) or wanted


def grant_client(request: Request, roles: Collection[Role], expected: str | None = None) -> str:
    """The principal's name that a client's certificate for ``request`` will carry.

    Raises:
        RequestRefusedError: it is damaged, does not name exactly one principal (if given, the ``expected`` one),
            or asks for something that a client may not have or for a role that is not among ``roles``.
        CredentialsError: its key is of a kind that is not accepted.
    """
    _check(request, CLIENT, roles)
    name = _one_name(request, "the principal's name")
    if expected is not None and name != expected:
        raise RequestRefusedError(f"{request.source} is for {name!a}, not for {expected!a} as --name says")
    return name


def grant_ca(request: Request) -> str:
    """The common name that an intermediate CA's certificate for ``request`` will carry.

    Raises:
        RequestRefusedError: it is damaged, does not have exactly one name, or asks for something that a CA may not
            have.
        CredentialsError: its key is of a kind that is not accepted.
    """
    _check(request, INTERMEDIATE, roles=())
    return _one_name(request, "the CA's name")


def request_key(request: Request) -> VerifyingKey:
    """The public key that a request asks a certificate for.

    Raises:
        CredentialsError: it is of a kind that is not accepted, or damaged.
    """
    with parsing("public key", request.source):
        key = request.csr.public_key()
    return accept_public(key, request.source)


def is_signed(csr: x509.CertificateSigningRequest, source: str) -> bool:
    """Whether a request carries its own key's signature, the proof that the asker has the private key.

    Raises:
        CredentialsError: the signature is of a kind that cannot be checked.
    """
    with parsing("signature", source):
        return csr.is_signature_valid


def _check(request: Request, profile: Profile, roles: Collection[Role]) -> None:
    key = request_key(request)
    if not is_signed(request.csr, request.source):
        raise RequestRefusedError(f"{request.source} is not signed by its own key: it was changed or damaged")
    _check_roles(request, profile, roles)
    check_extensions(request.csr, key, profile, request.source)


def _check_roles(request: Request, profile: Profile, granted: Collection[Role]) -> None:
    with parsing("subject", request.source):
        wanted = role_texts(request.csr.subject)
    for role in wanted:
        if role not in list(Role):
            raise RequestRefusedError(
                f"{request.source} asks for the role {role!a}, which does not exist: the roles are {', '.join(Role)}"
            )
        if not profile.has_roles:
            raise RequestRefusedError(f"{request.source} asks for the role {role!a}; a {profile.name} has no roles")
        if role not in granted:
            raise RequestRefusedError(
                f"{request.source} asks for the role {role!a}, which was not granted: pass --role {role} to grant it"
            )


def _common_names(request: Request) -> list[str]:
    with parsing("subject", request.source):
        names = common_names(request.csr.subject)
    if len(names) > 1:
        raise RequestRefusedError(f"{request.source} has {len(names)} common names (CN): one is allowed")
    return names


def _one_name(request: Request, what: str) -> str:
    names = _common_names(request)
    if not names:
        raise RequestRefusedError(f"{request.source} has no common name (CN): it must be {what}")
    return _check_name(request, names[0])


def _check_name(request: Request, name: str) -> str:
    try:
        return check_name(name)
    except IdentityError as exc:
        raise RequestRefusedError(f"{request.source}: {exc}") from exc


# Files


def key_file(path: Path, key: SigningKey, mode: int = KEY_MODE, passphrase: bytes | None = None) -> NewFile:
    """A private key's file, still to be written, encrypted if there is a passphrase."""
    return NewFile(path, key_pem(key, passphrase), mode)


def csr_file(path: Path, csr: x509.CertificateSigningRequest) -> NewFile:
    """A request's file, still to be written."""
    return NewFile(path, csr.public_bytes(serialization.Encoding.PEM))
