"""Where a server is, as people write it."""

from __future__ import annotations

from api.errors import ConfigError


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` (an IPv6 host in brackets) as a pair.

    Raises:
        ConfigError: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not _may_be_one(host) or not digits or int(port) > 65535:
        raise ConfigError(f"{address!r} is not an address; write HOST:PORT, like localhost:50051 or [::1]:50051")
    return host, int(port)


def parse_addresses(text: str) -> list[tuple[str, int]]:
    """One address, or several with commas between them; none twice.

    Raises:
        ConfigError: one is not of the form, is missing, or is there twice.
    """
    found = [parse_address(address.strip()) for address in text.split(",")]
    if len(set(found)) < len(found):
        raise ConfigError(f"{text!r} names an address twice")
    return found


def _may_be_one(host: str) -> bool:
    """Whoever looks a host up can take the name."""
    try:
        return bool(host.encode("idna")) and host.isprintable()
    except UnicodeError:  # a part of it is empty, or too long
        return False
