"""What a machine of a pool is told: looked at, with the files that it names, before anything is begun."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509

from api.address import parse_address
from api.errors import ConfigError
from api.tls import client_context
from jobd.config import Config
from jobd.pools.etcd.endpoints import Etcd
from jobd.pools.etcd.keys import Keys, worker_name
from jobd.pools.etcd.private import KEY, Seal
from jobd.worker.job import wrong_with_label


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What they come to.

    Attributes:
        name: the worker's.
        seal: what secrets are sealed with; it has no key if they are not to be.
        context: makes what other machines are spoken to with.
    """

    name: str
    keys: Keys
    etcd: Etcd
    seal: Seal
    labels: Mapping[str, str]
    context: Callable[[], ssl.SSLContext]


def settings_of(config: Config) -> PoolSettings:
    """Look at them. Blocks.

    Raises:
        ConfigError: one cannot be used, or is missing.
    """
    return PoolSettings(
        _name(config),
        Keys(config.pool_prefix),
        _etcd(config),
        Seal(_seal_keys(config)),
        labels_of(config.labels),
        _context(config),
    )


def labels_of(text: str) -> dict[str, str]:
    """``K=V,K=V``.

    Raises:
        ConfigError: it is not of that form.
    """
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    for name, equals, value in pairs:
        why = wrong_with_label(name, value) if equals else "it is not of the form K=V"
        if why:
            raise ConfigError(f"--labels: {name + equals + value!a}: {why}")
    return {name: value for name, _, value in pairs}


def _name(config: Config) -> str:
    """The worker's name, which the server's certificate has to say: brokers ask for it.

    Raises:
        ConfigError: it does not.
    """
    name = worker_name(config.worker_name or socket.gethostname())
    named = _names_in(config.cert)
    if config.worker and name not in named:
        raise ConfigError(
            f"--worker-name: the certificate {config.cert} does not name {name!a}: have it made with --host {name}, or "
            f"give one of its names: {', '.join(named) or 'it has none'}"
        )
    return name


def _names_in(path: Path) -> list[str]:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as exc:
        raise ConfigError(f"{path} is no certificate") from exc
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _etcd(config: Config) -> Etcd:
    if not config.advertise:
        raise ConfigError("--pool: --advertise is needed too: where the other machines reach this one")
    parse_address(config.advertise)
    return Etcd.at(config.pool, certificate=config.pool_cert, key=config.pool_key, ca=config.pool_ca)


def _context(config: Config) -> Callable[[], ssl.SSLContext]:
    if not (config.broker_cert and config.broker_key):
        raise ConfigError("--pool: --broker-cert and --broker-key are needed too: a client's, with the role broker")
    make = partial(client_context, certificate=config.broker_cert, key=config.broker_key, ca=config.ca)
    make()  # so that what cannot be used is said now
    return make


def _seal_keys(config: Config) -> list[bytes]:
    """A key a line, in hexadecimal digits.

    Raises:
        ConfigError: the file cannot be used.
    """
    if config.pool_secrets is None:
        return []
    try:
        keys = [bytes.fromhex(line) for line in config.pool_secrets.read_text("ascii").split()]
    except (OSError, ValueError):
        keys = []
    if not keys or any(len(key) != KEY for key in keys):
        raise ConfigError(
            f"--pool-secrets: {config.pool_secrets} is no list of keys, {2 * KEY} hexadecimal digits each"
        )
    return keys
