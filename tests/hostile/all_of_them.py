"""Every siege there is; each attack on a connection is one, again and again."""

from __future__ import annotations

from typing import Final

from tests.hostile.connection_attacks import FLOODING, ON_THE_CONNECTION
from tests.hostile.handshake_sieges import HANDSHAKE_SIEGES
from tests.hostile.identity_sieges import IDENTITY_SIEGES
from tests.hostile.siege import Siege, again_and_again
from tests.hostile.sieges import SIEGES
from tests.hostile.stream_attacks import ON_A_STREAM

ATTACKS: Final = (*ON_A_STREAM, *ON_THE_CONNECTION, *FLOODING)
ALL: Final[tuple[Siege, ...]] = (*HANDSHAKE_SIEGES, *SIEGES, *IDENTITY_SIEGES, *map(again_and_again, ATTACKS))
