"""Where a key's passphrase comes from: a file, a descriptor or the terminal. Never the command line or environment.

Both of those are seen by others: in the list of processes, and in everything that the shell starts.
"""

from __future__ import annotations

import getpass
import os
import warnings
from pathlib import Path
from typing import Final

from pki.errors import PassphraseError
from pki.files import read_file
from pki.reading import Ask

MAX_PASSPHRASE_BYTES: Final = 1023
"""What OpenSSL's buffer holds: others could not open a key with more."""


def from_file(path: Path) -> Ask:
    """The first line of ``path``, without its end."""
    return lambda: _checked(read_file(path, "passphrase").split(b"\n", 1)[0].removesuffix(b"\r"), str(path))


def from_descriptor(descriptor: int) -> Ask:
    """The next line from an open descriptor, without its end. Two passphrases may come from one, in turn."""
    return lambda: _checked(_line(descriptor), f"descriptor {descriptor}")


def from_terminal(what: str, *, new: bool = False) -> Ask:
    """What is typed at the terminal, which does not show it; asked for twice if it is a ``new`` one."""

    def ask() -> bytes:
        passphrase = _typed(f"Passphrase of {what}: ")
        if new and _typed("The same again: ") != passphrase:
            raise PassphraseError("the two passphrases differ: nothing was made")
        return _checked(passphrase, "the terminal")

    return ask


def _typed(prompt: str) -> bytes:
    try:
        # getpass would fall back to standard input, and show what is typed.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return os.fsencode(getpass.getpass(prompt))
    except (OSError, EOFError, getpass.GetPassWarning) as exc:
        raise PassphraseError(
            "there is no terminal on which to ask for the passphrase: give it in a file or by a descriptor"
        ) from exc


def _line(descriptor: int) -> bytes:
    read = bytearray()
    try:
        # A byte at a time: what follows the line is not ours.
        while (byte := os.read(descriptor, 1)) not in (b"", b"\n") and len(read) <= MAX_PASSPHRASE_BYTES:
            read += byte
    except OSError as exc:
        raise PassphraseError(f"cannot read a passphrase from descriptor {descriptor}: {exc.strerror}") from exc
    return bytes(read).removesuffix(b"\r")


def _checked(passphrase: bytes, source: str) -> bytes:
    if not passphrase:
        raise PassphraseError(f"there is no passphrase in {source}: its first line is empty")
    if len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise PassphraseError(f"the passphrase in {source} has more than {MAX_PASSPHRASE_BYTES} bytes")
    return passphrase
