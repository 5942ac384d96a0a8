"""Addresses, as people write them."""

from __future__ import annotations

import pytest

from api.address import parse_address, parse_addresses
from api.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("[::1]:0", ("::1", 0)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("bücher.example:65535", ("bücher.example", 65535)),
    ],
)
def test_host_and_port(written: str, meant: tuple[str, int]) -> None:
    """The port after the last colon; an IPv6 host in brackets."""
    assert parse_address(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", "x", ":1", "x:", "x:65536", "x:-1", "x:٣", f"x:{'1' * 5000}", "a..b:1", f"{'x' * 64}:1", "a\0b:1", "[]:1"],
)
def test_what_cannot_be_one_is_refused(written: str) -> None:
    """In words, before anybody is asked for it: who looks a host up would fail with something else."""
    with pytest.raises(ConfigError, match="is not an address"):
        parse_address(written)


def test_several_have_commas_between_them() -> None:
    """With or without spaces, in their order."""
    assert parse_addresses("a:1") == [("a", 1)]
    assert parse_addresses("a:1, [::1]:2,c:3") == [("a", 1), ("::1", 2), ("c", 3)]


@pytest.mark.parametrize("written", ["", "a:1,", ",a:1", "a:1,,b:2", "a:1,b", "a:1,a:1"])
def test_each_of_several_is_an_address_and_another_one(written: str) -> None:
    """None is left out in silence."""
    with pytest.raises(ConfigError):
        parse_addresses(written)
