"""The keys that detach from a job: found in what is typed, and not sent to it."""

from __future__ import annotations

from typing import Final

from api.errors import ConfigError

DEFAULT: Final = "ctrl-p,ctrl-q"
_CONTROLS: Final = "@abcdefghijklmnopqrstuvwxyz[\\]^_"
"""What can be typed with Ctrl; its place here is its code."""


def parse(text: str) -> bytes:
    """The bytes for keys written as docker does: characters and ``ctrl-X``, with commas between them. "" for none.

    Raises:
        ConfigError: one of them is no key.
    """
    if not text:
        return b""
    return bytes(_code(key, text) for key in text.split(","))


def _code(key: str, text: str) -> int:
    if len(key) == 1 and key.isascii() and key.isprintable():
        return ord(key)
    control, letter = key[:5].lower(), key[5:].lower()
    if control == "ctrl-" and len(letter) == 1 and letter in _CONTROLS:
        return _CONTROLS.index(letter)
    raise ConfigError(
        f"--detach-keys {text!a}: {key!a} is no key; write a character, or ctrl- and a letter or one of @ [ \\ ] ^ _"
    )


class DetachKeys:
    """Looks for the keys in what is typed, over as many reads as it comes in."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""  # the beginning of the keys was typed; whether it is them, the next ones will tell

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What of it is for the job, and whether the keys were typed; what came after them is nobody's."""
        if not self._keys:
            return typed, False
        sent = bytearray()
        for code in typed:
            self._held += bytes([code])
            while not self._keys.startswith(self._held):
                sent.append(self._held[0])
                self._held = self._held[1:]
            if self._held == self._keys:
                self._held = b""
                return bytes(sent), True
        return bytes(sent), False
