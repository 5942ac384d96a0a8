"""What of a job only its worker needs: the values of its secrets, and its given stdin.

It is in etcd from the submit to the claim, in a key of its own, which the claim deletes; who reads etcd then, or the
backup of a later day, does not find it. But etcd keeps what was deleted until it compacts, and its files have it until
they are written anew. So secrets go there sealed only, with a key that all jobd of the pool have and etcd has not
(AES-256-GCM); a pool without one refuses jobs that have secrets.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from api.errors import FieldViolation
from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Private
from jobd.worker.errors import InvalidSpecError
from jobd.worker.job import JobSpec

KEY: Final = 32
"""Bytes of a key."""
_NONCE: Final = 12
_NAME: Final = b"jobd pool key\n"
_OPEN: Final = b"\0"
_SEALED: Final = b"\1"


class Seal:
    """Seals with the first key; opens with any of them, so that keys can be changed one jobd after the other.

    Attributes:
        names: of the keys, for everybody to see; the keys themselves cannot be found from them.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        if any(len(key) != KEY for key in keys):
            raise ValueError(f"a key of the pool has {KEY} bytes")
        self._ciphers = [AESGCM(key) for key in keys]
        self.names = tuple(hashlib.sha256(_NAME + key).hexdigest()[:16] for key in keys)

    def split(self, spec: JobSpec, at: bytes) -> tuple[JobSpec, bytes]:
        """The spec without what is private, and that, for the key ``at``; b"" when there is none.

        Raises:
            InvalidSpecError: it has secrets, and there is no key to seal them with.
            RecordTooLargeError: it is too large.
        """
        if spec.secret_env and not self._ciphers:
            why = "cannot be given here: this pool has no key to seal secrets with"
            raise InvalidSpecError((FieldViolation("spec.secret_env", why),))
        if not spec.secret_env and not spec.stdin_data:
            return spec, b""
        stdin = base64.b64encode(spec.stdin_data).decode()
        data = encode(Private(secret_env=dict(spec.secret_env), stdin_data=stdin))
        return replace(spec.withheld, stdin_data=b""), self._sealed(data, at)

    def join(self, spec: JobSpec, at: bytes, value: bytes) -> JobSpec:
        """The spec whole again.

        Raises:
            PoolDataError: what is at that key is of another key, of another job, or damaged.
        """
        private = decode(Private, at, self._opened(value, at))
        try:
            stdin = base64.b64decode(private.stdin_data, validate=True)
        except ValueError as exc:
            raise PoolDataError(at, "its stdin is no base64") from exc
        if private.secret_env.keys() != spec.secret_env.keys():
            raise PoolDataError(at, "it has the secrets of another job")
        return replace(spec, secret_env=private.secret_env, stdin_data=stdin)

    def _sealed(self, data: bytes, at: bytes) -> bytes:
        if not self._ciphers:
            return _OPEN + data
        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + self._ciphers[0].encrypt(nonce, data, at)

    def _opened(self, value: bytes, at: bytes) -> bytes:
        kind, rest = value[:1], value[1:]
        if len(value) > Private.MOST + 100:
            raise PoolDataError(at, "it is too large")
        if kind == _OPEN and not self._ciphers:  # with a key, nobody who writes to etcd may give jobs a stdin
            return rest
        if kind == _SEALED:
            for cipher in self._ciphers:
                try:
                    return cipher.decrypt(rest[:_NONCE], rest[_NONCE:], at)
                except (InvalidTag, ValueError):
                    continue
        raise PoolDataError(at, "it was not sealed with a key that this jobd has")
