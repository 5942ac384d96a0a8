"""What a client that means harm sends over a connection of its own, and what it has to be answered.

Each attack is a function of a connected peer, and says what it was answered. Those on one stream must leave the
connection as it was; the others may end it, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from api import methods
from api.messages import QueryRequest
from api.protobuf import encode
from tests.hostile.peer import RawPeer, with_header

Run = Callable[[RawPeer], str]

QUERY: Final = encode(QueryRequest("0000"))
WATCH: Final = with_header(path=methods.WATCH.path)


@dataclass(frozen=True)
class Attack:
    """One of them.

    Attributes:
        name: for people.
        run: does it, once.
        answer: what it has to say.
        costs: "nothing", "stream" or "connection": what is gone then, at the most.
        counted: the field of ``Statistics`` that grows, if it is no call as any other.
        others: what it may be answered as well, and what grows then, when it goes on and on.
    """

    name: str
    run: Run
    answer: str
    costs: str
    counted: str = ""
    others: dict[str, str] = field(default_factory=dict)


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message whose prefix may lie."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data
