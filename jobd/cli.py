"""The command ``jobd``: the front, which starts a launcher, which starts a server. So it imports little."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobd.launcher import front

LOOKING = frozenset({"-h", "--help", "--version"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``jobd``; returns the exit code: 0 after an orderly end, 2 for settings that cannot be used."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["dev"]:
        from jobd import dev  # brings in the pki, which the daemon itself never needs

        return dev.main(arguments[1:])
    if arguments[:1] == ["upgrade"]:
        from jobd import upgrade

        return upgrade.main(arguments[1:])
    if arguments[:1] == ["backup"] or arguments[:1] == ["restore"]:
        from jobd.backup import cli

        return (cli.backup if arguments[0] == "backup" else cli.restore_command)(arguments[1:])
    if arguments[:1] == ["check"]:
        from jobd.check import cli as check

        return check.main(arguments[1:])
    if arguments[:1] == ["audit"]:
        from jobd.audit import cli as audit

        return audit.main(arguments[1:])
    if LOOKING & set(arguments):
        from jobd import server  # everything that a server needs, for a look at its options

        return server.main(arguments)
    return front.main(arguments)
