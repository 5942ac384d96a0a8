"""What betterproto loads at its import, and no program of ours ever calls, stays unloaded: an eighth of a cold start.

For programs alone (``jobcli``, ``jobd``). Whoever embeds :mod:`api.client` may use all of betterproto, and gets it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Final

BETTERPROTO: Final = "2.0.0b7"
"""The version pinned in pyproject.toml; betterproto asks ``importlib.metadata`` for it, which loads a mail parser."""


def leave_out_what_is_not_called() -> None:
    """Put empty modules where betterproto would load asyncio (for stubs), dateutil (for JSON) and its own version.

    Does nothing once betterproto is imported.
    """
    if "betterproto" in sys.modules:
        return
    _stand_in("betterproto._version", __version__=BETTERPROTO)
    _stand_in("betterproto.grpc.grpclib_client", ServiceStub=object)
    _stand_in("dateutil")
    _stand_in("dateutil.parser", isoparse=_not_here)


def _stand_in(name: str, **content: object) -> None:
    module = ModuleType(name, "Left out by api.lean.")
    module.__dict__.update(content)
    sys.modules.setdefault(name, module)


def _not_here(text: str) -> None:
    raise RuntimeError("api.lean left dateutil out of this program, which was to read no message from JSON")
