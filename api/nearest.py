"""What somebody may have meant who wrote a name that there is not."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn


def nearest(word: str, names: Iterable[str], closeness: float = 0.6) -> str:
    """ "; did you mean X?", with the name that is nearest to the word; "" when none is near.

    Args:
        closeness: of 1, how alike they have to be.
    """
    import difflib  # only for those who are wrong

    near = difflib.get_close_matches(word, list(names), n=1, cutoff=closeness)
    return f"; did you mean {near[0]}?" if near else ""


class Parser(argparse.ArgumentParser):
    """argparse, which names the nearest flag, command or choice.

    Attributes:
        commands: those that somebody else parses.
    """

    commands: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        """End the program with what is wrong."""
        super().error(self.hinted(message))

    def hinted(self, message: str) -> str:
        """argparse's message, with the flag that was meant by one that there is not, or the command."""
        _, _, unknown = message.partition("unrecognized arguments: ")
        first = unknown.partition(" ")[0].partition("=")[0]
        if not first.startswith("--"):
            return message + (nearest(first, self.commands) if first else "")
        if whose := [name for name, below in self._below() if first in below.flags()]:
            return f"{message}; it is an option of {', '.join(whose)}"
        return message + ("; it comes before the command" if first in self.flags() else nearest(first, self.flags()))

    def flags(self) -> Iterator[str]:
        """Those of this parser, and of the commands below it."""
        for action in self._actions:
            yield from action.option_strings
        for _, below in self._below():
            yield from below.flags()

    def _below(self) -> Iterator[tuple[str, Parser]]:
        """The commands of this one."""
        for action in self._actions:
            if isinstance(action.choices, dict):
                yield from ((name, below) for name, below in action.choices.items() if isinstance(below, Parser))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as exc:
            raise argparse.ArgumentError(
                action, exc.message + nearest(str(value), map(str, action.choices or ()))
            ) from exc
