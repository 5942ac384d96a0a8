"""Whether a server of these settings could start, as far as that can be seen beside the one that runs: what an upgrade
asks before it leaves that one for another."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from api.errors import ConfigError
from jobd.audit.file import end_of, open_there
from jobd.config import Config
from jobd.daemon import files_of
from jobd.machine import job_user
from jobd.parts import judge_addresses
from jobd.trust.files import Files
from jobd.trust.trust import load_trust
from jobd.unprivileged import acting_as, server_user


def try_out(config: Config) -> None:
    """Nothing is started, and nothing changed.

    Raises:
        JobdError: certificates, lists or the audit log cannot be used, there is no such user, or an address is none.
    """
    who = server_user(config)
    job_user(config.job_user)
    judge_addresses(config)
    _try_trust(files_of(config), demanding=config.crl_policy == "hard-fail")
    if config.audit_log:
        with acting_as(who):
            _try_audit_log(config.audit_log)


def _try_trust(files: Files, *, demanding: bool) -> None:
    if any(path.exists() and not path.is_file() for path in files.all):
        return  # it is there to be read, and only once
    load_trust(files, files.read(), datetime.now(UTC), demanding=demanding)


def _try_audit_log(path: Path) -> None:
    try:
        fd = open_there(path)
    except FileNotFoundError:
        if os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return
        raise ConfigError(f"the audit log {path} cannot be made: {path.parent} cannot be written in") from None
    except OSError as exc:
        raise ConfigError(f"the audit log {path} cannot be used: {exc.strerror}") from exc
    try:
        end_of(fd, path)
    finally:
        os.close(fd)
    if not os.access(path, os.W_OK, effective_ids=True):
        raise ConfigError(f"the audit log {path} cannot be written")
