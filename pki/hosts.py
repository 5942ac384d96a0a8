"""The host names and addresses that a server's certificate may carry (RFC 5280, section 4.2.1.6)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from api.errors import ConfigError

Host = x509.DNSName | x509.IPAddress
"""One entry of a subject alternative name that says where a server can be reached."""

MAX_DNS_NAME: Final = 253
"""The longest host name that DNS can carry, in characters (RFC 1035, section 2.3.4, without the root's dot)."""

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def parse_hosts(texts: Iterable[str]) -> tuple[Host, ...]:
    """The hosts that ``texts`` name, in order, each once.

    Raises:
        ConfigError: one of them is neither a DNS name nor an IP address.
    """
    return tuple(dict.fromkeys(parse_host(text) for text in texts))


def parse_host(text: str) -> Host:
    """The DNS name (lower-cased) or IP address that ``text`` is.

    Wildcards are refused: a certificate vouches only for hosts that somebody named.

    Raises:
        ConfigError: it is neither.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return x509.DNSName(_dns_name(text))
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ConfigError(f"the host {text!a} has a zone (%…), which a certificate cannot carry: leave the zone out")
    return x509.IPAddress(address)


def host_text(host: Host) -> str:
    """The host as a person writes it."""
    return str(host.value)


def _dns_name(text: str) -> str:
    name = text.lower()
    labels = name.split(".")
    if len(name) > MAX_DNS_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ConfigError(
            f"the host {text!a} is neither an IP address nor a DNS name: give it without port, brackets, wildcard "
            "or final dot, and names outside ASCII in their xn-- form"
        )
    if labels[-1].isdigit():
        # No top-level domain is a number (RFC 3696, section 2), so this is an address with a slip in it.
        raise ConfigError(f"the host {text!a} looks like an IPv4 address but is not one: check its numbers")
    return name
