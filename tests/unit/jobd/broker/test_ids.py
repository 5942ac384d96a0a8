"""Job ids and their prefixes."""

from __future__ import annotations

import uuid

import pytest

from jobd.broker.ids import canonical
from jobd.worker.errors import InvalidIdError


def test_every_form_of_a_uuid_is_the_same_id() -> None:
    """Capitals and missing dashes are how people copy them."""
    id_ = uuid.uuid4()
    assert {canonical(text) for text in (str(id_), str(id_).upper(), id_.hex)} == {str(id_)}


@pytest.mark.parametrize("length", [4, 8, 9, 12, 13, 20, 35])
def test_a_prefix_keeps_its_dashes(length: int) -> None:
    """Also when they were left out."""
    id_ = str(uuid.uuid4())
    prefix = id_[:length]
    assert canonical(prefix).rstrip("-") == prefix.rstrip("-")
    assert id_.startswith(canonical(prefix.replace("-", "")))


@pytest.mark.parametrize(
    "text", ["", "abc", "xyz12345", "0000-0000", "12345678-", "a" * 40, "%' OR 1=1", "٣٣٣٣", "1234567890123-", "a\0bc"]
)
def test_what_no_uuid_begins_with_is_refused(text: str) -> None:
    """Including too short a prefix; a trailing dash in the right place is part of one."""
    if text == "12345678-":
        assert canonical(text) == text
        return
    with pytest.raises(InvalidIdError):
        canonical(text)
