"""Key pairs: which kinds are accepted, and how a new one is made."""

from __future__ import annotations

import enum
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from api.errors import CredentialsError

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
"""A private key of an accepted kind."""

VerifyingKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
"""A public key of an accepted kind."""


class KeyKind(enum.StrEnum):
    """The kinds of keys that are made here."""

    P256 = "p256"
    P384 = "p384"
    ED25519 = "ed25519"


MIN_RSA_BITS: Final = 2048

ACCEPTED: Final = f"ECDSA P-256, ECDSA P-384, Ed25519, or RSA with at least {MIN_RSA_BITS} bits"

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_ACCEPTED_CURVES: Final = {"secp256r1", "secp384r1"}


def new_key(kind: KeyKind = KeyKind.P256) -> SigningKey:
    """A new key."""
    match kind:
        case KeyKind.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.ED25519:
            return ed25519.Ed25519PrivateKey.generate()


def kind_of(key: VerifyingKey) -> KeyKind:
    """The kind of which a key is, or for RSA, which is not made here, the default."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyKind.ED25519
    is_p384 = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1"
    return KeyKind.P384 if is_p384 else KeyKind.P256


def key_pem(key: SigningKey, passphrase: bytes | None = None) -> bytes:
    """The private key as PKCS #8 in PEM (RFC 5958, RFC 7468), encrypted if there is a passphrase.

    Without one the file's mode is what guards it.
    """
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase),
    )


def public_bytes(key: VerifyingKey) -> bytes:
    """The SubjectPublicKeyInfo in DER (RFC 5280, section 4.1.2.7): equal for equal keys."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signature_hash(key: SigningKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """The hash to sign with: TLS 1.3 ties SHA-384 to P-384 (RFC 8446, section 4.2.3); Ed25519 brings its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return hashes.SHA384()
    return hashes.SHA256()


def accept_public(key: object, owner: str) -> VerifyingKey:
    """Return ``key`` if it is a public key of an accepted kind; ``owner`` is what the message says it is of.

    Raises:
        CredentialsError: it is not; the message names its kind.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _ACCEPTED_CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise CredentialsError(f"{owner} has a key of the kind {key_kind(key)}, which is not accepted: use {ACCEPTED}")


def accept_private(key: object, owner: str) -> SigningKey:
    """:func:`accept_public` for a private key.

    Raises:
        CredentialsError: its kind is not accepted.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        accept_public(key.public_key(), owner)
        return key
    raise CredentialsError(f"{owner} is a key of the kind {key_kind(key)}, which is not accepted: use {ACCEPTED}")


def key_kind(key: object) -> str:
    """What kind of key this is, public or private, in a few words."""
    match key:
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            return f"RSA {key.key_size}"
        case dsa.DSAPublicKey() | dsa.DSAPrivateKey():
            return f"DSA {key.key_size}"
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            return "Ed25519"
        case ed448.Ed448PublicKey() | ed448.Ed448PrivateKey():
            return "Ed448"
        case _:
            return type(key).__name__
