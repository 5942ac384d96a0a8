"""What somebody may be. Apart from ``api.identity``, so that a client need not load what reads certificates."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """What a certificate may say of its holder.

    A reader may query, stream, list and wait. A writer may do all of that, and start, stop, signal and delete. A broker
    may do nothing for itself: in a pool, a machine that has it hands on what others have asked it for (``api.acting``).
    """

    READER = "reader"
    WRITER = "writer"
    BROKER = "broker"
