"""Sieges of those who have a certificate, and look for more than it gives: other spellings of a method, other names."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from api import methods
from api.messages import QueryRequest
from api.methods import METHODS
from api.protobuf import encode
from api.roles import Role
from api.tls import client_context
from tests.hostile.attack import message
from tests.hostile.expected import Expected
from tests.hostile.peer import RawPeer, with_header
from tests.hostile.siege import Siege, Site, all_counted
from tests.support.strange_certificates import NAMES, strange_certificate

FORMS: Final = (
    "{}/",
    "/{}",
    "{}?",
    "{}?role=writer",
    "{}#",
    "{}%00",
    "{}%20",
    "{}.",
    "{};",
    "{} ",
    "/.{}",
    "/x/..{}",
    "{}é",
)
DENIED, NO_METHOD, NO_CALL = "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL"


def spellings() -> Iterator[tuple[str, str]]:
    """What a reader may try of each method that is not a reader's, and how it is answered."""
    for path in (method.path for method in METHODS if method.role is Role.WRITER):
        yield path, DENIED
        yield path.removeprefix("/"), NO_CALL
        others = {
            *(form.format(path) for form in FORMS),
            path.lower(),
            path.upper(),
            path.swapcase(),
            path.replace("/", "//"),
            path.replace("/", "\\"),
            path.rpartition("/")[2].join("//"),
            f"/{methods.HEALTH}/{path.rpartition('/')[2]}",
            f"{path[:2]}%{ord(path[2]):x}{path[3:]}",
            *(path[:place] + path[place].swapcase() + path[place + 1 :] for place in range(1, len(path))),
        }
        for other in sorted(others - {path}):
            yield other, NO_METHOD if other.startswith("/") else NO_CALL


def tried(peer: RawPeer, path: str, answer: str) -> str:
    """What this spelling is answered; with the spelling, if that is another answer than it should be."""
    given = peer.request(with_header(path=path), message(encode(QueryRequest("0000"))))
    return given if given == answer else f"{given} to {path!a}"


def every_spelling(site: Site) -> Counter[str]:
    """A reader looks for a way around the policy."""
    answers: Counter[str] = Counter()
    while not (site.over.is_set() and answers):
        with site.peer() as peer:
            answers.update(tried(peer, *each) for each in spellings())
    return answers


def names_for_the_terminal(site: Site) -> Counter[str]:
    """Certificates that the CA has signed, whose names are escapes, or 10 kB, or nothing."""
    answers: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="jobd-hostile-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lengths are what we want
        contexts = [client_context(**strange_certificate(site.pki, Path(name), [each])) for each in NAMES.values()]
    while not (site.over.is_set() and answers):
        for context in contexts:
            with RawPeer(site.server, context).begin() as peer:
                answers[peer.request()] += 1
    return answers


_TRIED: Final = Counter(answer for _, answer in spellings())
IDENTITY_SIEGES: Final = (
    Siege("every spelling of a method", every_spelling, Expected(_TRIED, counted=all_counted(DENIED, NO_METHOD))),
    Siege(
        "names for the terminal, and of 10 kB",
        names_for_the_terminal,
        Expected({"UNAUTHENTICATED": len(NAMES)}, counted=all_counted("UNAUTHENTICATED")),
    ),
)
