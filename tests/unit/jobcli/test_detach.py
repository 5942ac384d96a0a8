"""The keys that detach, as they are written and as they are typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import ConfigError
from jobcli.detach import DEFAULT, DetachKeys, parse


@pytest.mark.parametrize(
    ("text", "keys"),
    [(DEFAULT, b"\x10\x11"), ("", b""), ("ctrl-@", b"\0"), ("a,CTRL-B", b"a\x02"), ("ctrl-\\,ctrl-_", b"\x1c\x1f")],
)
def test_keys_are_written_as_for_docker(text: str, keys: bytes) -> None:
    """Characters, and those with Ctrl."""
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ctrl-ab", "ab", ",", "é", "\n", "ctrl-é"])
def test_what_is_no_key_is_refused(text: str) -> None:
    """By name."""
    with pytest.raises(ConfigError, match="is no key"):
        parse(text)


@given(st.lists(st.binary(max_size=4)), st.binary(min_size=1, max_size=3))
def test_what_is_typed_goes_to_the_job_but_for_the_keys(typed: list[bytes], keys: bytes) -> None:
    """However it is cut into reads: all that comes before the keys, and nothing of them."""
    finder, sent, found = DetachKeys(keys), b"", False
    for piece in typed:
        more, found = finder.feed(piece)
        sent += more
        if found:
            break
    whole = b"".join(typed)
    before, there, _ = whole.partition(keys)
    assert found == bool(there)
    if found:
        assert sent == before
    else:
        held = whole[len(sent) :]
        assert whole.startswith(sent)
        assert keys.startswith(held)
        assert len(held) < len(keys)


@given(st.binary())
def test_without_keys_everything_goes_to_the_job(typed: bytes) -> None:
    """At once."""
    assert DetachKeys(b"").feed(typed) == (typed, False)
