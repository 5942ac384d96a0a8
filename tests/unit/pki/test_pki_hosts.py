"""Which texts are hosts."""

from __future__ import annotations

import pytest

from api.errors import ConfigError
from pki.hosts import host_text, parse_host, parse_hosts


@pytest.mark.parametrize("text", ["localhost", "a.example.com", "xn--bcher-kva.example", "10.0.0.1", "fd00::1", "1a.b"])
def test_hosts(text: str) -> None:
    """DNS names and IP addresses are hosts."""
    assert host_text(parse_host(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "a.",
        "-a",
        "a-",
        "a_b",
        "*.a.b",
        "a b",
        "a:1",
        "[::1]",
        "bücher.example",
        "a/b",
        "a\n",
        "a" * 64,
    ],
)
def test_not_hosts(text: str) -> None:
    """Anything else is refused, with the text escaped."""
    with pytest.raises(ConfigError, match="neither an IP address nor a DNS name"):
        parse_host(text)


@pytest.mark.parametrize("text", ["256.1.1.1", "127.0.0", "10.0.0.01"])
def test_mistyped_addresses(text: str) -> None:
    """A name that ends in a number is an address with a slip."""
    with pytest.raises(ConfigError, match="looks like an IPv4 address"):
        parse_host(text)


def test_no_zone() -> None:
    """A zone is refused, not dropped."""
    with pytest.raises(ConfigError, match="zone"):
        parse_host("fe80::1%eth0")


def test_once_each_in_order() -> None:
    """Hosts keep their order and appear once, whatever their case."""
    assert [host_text(host) for host in parse_hosts(["b", "A", "B", "a"])] == ["b", "a"]
