"""Messages are made like any dataclass, though by an ``__init__`` that all of them share."""

from __future__ import annotations

import dataclasses
import inspect

import betterproto
import pytest

from api import messages as m

CLASSES = [cls for _, cls in inspect.getmembers(m, inspect.isclass) if issubclass(cls, betterproto.Message)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_message_without_values_is_as_betterproto_has_it(cls: type[betterproto.Message]) -> None:
    """Nothing is set, nothing is on the wire, and each field has its zero."""
    made = cls()
    assert bytes(made) == b""
    assert not betterproto.serialized_on_wire(made)
    assert made == cls().parse(b"")
    assert {field.name for field in dataclasses.fields(cls)} == set(made._betterproto.meta_by_field_name)  # type: ignore[arg-type] # it is one


def test_values_are_given_by_name_or_in_order() -> None:
    """Both, too; in a oneof, the one that was given is the one that is set."""
    made = m.Output(b"x", offset=3)
    assert made == m.Output(data=b"x", offset=3)
    assert betterproto.serialized_on_wire(made)
    response = m.StreamResponse(output=made)
    assert betterproto.which_one_of(response, "event") == ("output", made)
    with pytest.raises(AttributeError, match="set to 'output'"):
        _ = response.verdict
    response.gap = m.Gap(1, 2)
    assert betterproto.which_one_of(response, "event") == ("gap", m.Gap(1, 2))


def test_what_is_no_field_is_refused() -> None:
    """As by any dataclass: an unknown name, a field given twice, and more values than there are fields."""
    with pytest.raises(TypeError, match="Gap has no such field, or it is given twice: lost"):
        m.Gap(lost=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="given twice: offset"):
        m.Gap(1, offset=1)  # type: ignore[misc]
    with pytest.raises(TypeError, match="Gap has 2 fields, and not 3"):
        m.Gap(1, 2, 3)  # type: ignore[call-arg]
