"""From the options that several commands share to what they mean."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from api.identity import Role
from pki.authority import Authority
from pki.ca_files import KEY_NAME
from pki.console import say
from pki.files import is_missing, open_to_others
from pki.index_file import index_path
from pki.passphrases import from_descriptor, from_file, from_terminal
from pki.reading import Ask


def authority_in(directory: Path, args: Namespace) -> Authority:
    """The CA in ``directory``, with a warning if its key lies open, or it has no index."""
    authority = Authority.load(directory, ca_passphrase(directory, args))
    if is_missing(index_path(directory)):
        say(
            f"jobpki: warning: {index_path(directory)} is not there, and is begun: what was issued before is not "
            f"in it, and can be revoked by its files only",
            sys.stderr,
        )
    if open_to_others(authority.key_path):
        say(
            f"jobpki: warning: others can open the CA key {authority.key_path}, and so sign what they like: "
            f"chmod 400 {authority.key_path}",
            sys.stderr,
        )
    return authority


def ca_passphrase(directory: Path, args: Namespace) -> Ask:
    """Who is asked for the passphrase of a CA's key, if that is encrypted."""
    given = _given(args.ca_passphrase_file, args.ca_passphrase_fd)
    return given or from_terminal(str(directory / KEY_NAME))


def new_passphrase(args: Namespace, path: Path) -> bytes | None:
    """The passphrase with which the new key at ``path`` is to be encrypted; None if it is not to be."""
    ask = _given(args.key_passphrase_file, args.key_passphrase_fd)
    if ask is None and args.encrypt_key:
        ask = from_terminal(f"the new key {path}", new=True)
    return None if ask is None else ask()


def roles_in(args: Namespace) -> list[Role]:
    """The roles that are to be granted."""
    return [Role(role) for role in args.role]


def _given(file: Path | None, descriptor: int | None) -> Ask | None:
    if file is not None:
        return from_file(file)
    return None if descriptor is None else from_descriptor(descriptor)
