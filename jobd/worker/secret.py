"""What is kept of a job's secrets when they are not kept: enough to know them again, and no more.

The digest is salted and slow (scrypt, RFC 7914: 4 MiB and some ten milliseconds for each guess), since a secret can
be a password that somebody thought of.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping


def digest_of(secrets: Mapping[str, str]) -> str:
    """A digest for :func:`matches`. Takes a while: call it in a thread."""
    salt = os.urandom(16)
    return f"{salt.hex()}:{_digest(secrets, salt).hex()}"


def matches(secrets: Mapping[str, str], digest: str) -> bool:
    """The digest is that of these names and values. Takes a while: call it in a thread."""
    salt, _, expected = digest.partition(":")
    return hmac.compare_digest(_digest(secrets, bytes.fromhex(salt)).hex(), expected)


def _digest(secrets: Mapping[str, str], salt: bytes) -> bytes:
    text = json.dumps(sorted(secrets.items())).encode()
    return hashlib.scrypt(text, salt=salt, n=2**12, r=8, p=1, dklen=32)
