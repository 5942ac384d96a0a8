"""What trio, betterproto and purerpc load at their import, and no program of ours calls, stays unloaded: a third of
a cold start.

For programs alone (``jobcli``, ``jobd``). Whoever embeds :mod:`api.client` may use all of betterproto, and gets it.
"""

from __future__ import annotations

import sys
import typing
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

BETTERPROTO: Final = "2.0.0b7"
"""The version pinned in pyproject.toml; betterproto asks ``importlib.metadata`` for it, which loads a mail parser."""
LATE: Final = ("asyncio", "idna", "tomllib")
"""Loaded when something of theirs is asked for: in most runs, nothing is."""
_DTLS: Final = ("DTLSChannel", "DTLSChannelStatistics", "DTLSEndpoint")


def leave_out_what_is_not_called() -> None:
    """Put empty modules where betterproto would load asyncio (for stubs), dateutil (for JSON) and its own version, and
    where trio would load its DTLS; and an empty package around purerpc's protocol, where purerpc would load its client,
    its server and anyio. Of Google's messages there are those of :mod:`api.well_known` alone.

    Does nothing once betterproto is imported.
    """
    if "betterproto" in sys.modules:
        return
    _stand_in("betterproto._version", __version__=BETTERPROTO)
    _stand_in("betterproto.grpc.grpclib_client", ServiceStub=object)
    _stand_in("trio._dtls", **{name: type(name, (), {}) for name in _DTLS})
    for name in LATE:
        _late(name)
    _stand_in("dateutil")
    _stand_in("dateutil.parser", isoparse=_not_here)
    _stand_in("typing_extensions", **{name: getattr(typing, name) for name in ("Concatenate", "ParamSpec", "Self")})
    _stand_in("betterproto.lib")
    _stand_in("betterproto.lib.google")
    _stand_in("betterproto.lib.google.protobuf", __getattr__=_well_known)
    if found := find_spec("purerpc"):
        _stand_in("purerpc", __path__=found.submodule_search_locations, __spec__=found)


def _late(name: str) -> None:
    """Put a module in this one's place that loads it as soon as anything of it is asked for."""

    def ask(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":  # that is asked for when a part of it is imported
            raise AttributeError(attribute)
        if sys.modules.get(name) is made:
            sys.modules.pop(name, None)
        return getattr(import_module(name), attribute)

    made = _stand_in(name, __getattr__=ask)


def _well_known(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("api.well_known"), name)


def _stand_in(name: str, **content: object) -> ModuleType:
    module = ModuleType(name, "Left out by api.lean.")
    module.__dict__.update(content)
    return sys.modules.setdefault(name, module)


def _not_here(text: str) -> None:
    raise RuntimeError("api.lean left dateutil out of this program, which was to read no message from JSON")
