"""Where etcd is, and how it is spoken to: ``etcd://HOST:PORT[,HOST:PORT…]``, and TLS."""

from __future__ import annotations

import ipaddress
import random
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from api.address import parse_address
from api.errors import ConfigError
from api.tls import client_context

SCHEME: Final = "etcd://"
PLAINTEXT: Final = "etcd+plaintext://"
"""Whoever reaches such an etcd owns the pool, each job of this machine among them: for trials, over loopback alone."""
MOST: Final = 9
"""Members of an etcd; it is slower with each. A call may have to try all of them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a member may take, in seconds.

    Attributes:
        connect: for TCP, TLS and the first sign of life together.
        call: until a call is given up, here and there. A proposal that a dying leader dropped waits out all of it.
    """

    connect: float = 2.0
    call: float = 1.5


@dataclass(frozen=True, slots=True)
class Etcd:
    """An etcd, as it is reached.

    Attributes:
        endpoints: its members; at least one.
        tls: None is plaintext.
        limits: how long each of them may take.
    """

    endpoints: tuple[Endpoint, ...]
    tls: ssl.SSLContext | None
    limits: Limits = Limits()

    @classmethod
    def at(
        cls,
        address: str,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        ca: Path | None = None,
        passphrase: Path | None = None,
    ) -> Self:
        """Of what the operator wrote.

        Args:
            address: ``etcd://HOST:PORT[,HOST:PORT…]``; with ``etcd+plaintext://`` instead there is no TLS, and the
                hosts are addresses of loopback.
            certificate, key, ca, passphrase: as for :func:`api.tls.client_context`; all but the last with TLS, and
                none without.

        Raises:
            ConfigError: the address, or a file, cannot be used.
        """
        if address.startswith(PLAINTEXT):
            endpoints = _parse(address, PLAINTEXT)
            for endpoint in endpoints:
                _check_loopback(endpoint)
            if certificate or key or ca:
                raise ConfigError(f"{PLAINTEXT} has no certificates; write {SCHEME} to use them")
            return cls(endpoints, None)
        endpoints = _parse(address, SCHEME)
        if not (certificate and key and ca):
            raise ConfigError("etcd is spoken to with certificates: give --pool-cert, --pool-key and --pool-ca")
        tls = client_context(certificate=certificate, key=key, ca=ca, passphrase=passphrase)
        # Some releases of etcd (3.5's first ones among them) have nothing newer.
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        return cls(endpoints, tls)


def _parse(address: str, scheme: str) -> tuple[Endpoint, ...]:
    if not address.startswith(scheme):
        raise ConfigError(f"{address!r} is no etcd; write {SCHEME}HOST:PORT, or several with commas between them")
    endpoints = tuple(Endpoint(*parse_address(each)) for each in address.removeprefix(scheme).split(","))
    if len(endpoints) > MOST:
        raise ConfigError(f"{len(endpoints)} members of an etcd are more than the {MOST} that are tried")
    if len(set(endpoints)) < len(endpoints):
        raise ConfigError(f"a member stands twice in {address!r}")
    return endpoints


def _check_loopback(endpoint: Endpoint) -> None:
    try:
        loopback = ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        loopback = False  # a name can be anywhere
    if not loopback:
        raise ConfigError(
            f"{endpoint} would be spoken to without TLS, and whoever is between owns the pool: "
            f"write {SCHEME}, or an address of loopback, like 127.0.0.1"
        )


class Rotation:
    """Which member is asked now: the same, for as long as it answers."""

    def __init__(self, endpoints: tuple[Endpoint, ...], first: int | None = None) -> None:
        """
        Args:
            first: where to begin; if None, anywhere, so that many machines spread over the members.
        """
        self._endpoints = endpoints
        self._at = random.randrange(len(endpoints)) if first is None else first  # noqa: S311 # no secret

    @property
    def current(self) -> Endpoint:
        return self._endpoints[self._at]

    def next(self) -> None:
        self._at = (self._at + 1) % len(self._endpoints)

    def round(self) -> Iterator[Endpoint]:
        """Each member once, from the current one on; the rotation stays at the one where the loop is left."""
        for _ in self._endpoints:
            yield self.current
            self.next()

    def __len__(self) -> int:
        return len(self._endpoints)
