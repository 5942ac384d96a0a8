"""Whether a server of these settings could start, as far as that can be seen beside the one that runs: what an upgrade
asks before it leaves that one for another."""

from __future__ import annotations

from datetime import UTC, datetime

from api.errors import ConfigError
from jobd.audit.file import see_that_it_can_be_written
from jobd.config import Config
from jobd.daemon import files_of
from jobd.machine import job_user
from jobd.parts import judge_addresses
from jobd.trust.files import Files
from jobd.trust.trust import load_trust
from jobd.unprivileged import acting_as, server_user
from jobd.worker.identity import own


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
        try:
            with acting_as(who):
                see_that_it_can_be_written(config.audit_log, (who or own()).name)
        except ConfigError as exc:
            raise ConfigError(f"--audit-log: {exc}") from exc


def _try_trust(files: Files, *, demanding: bool) -> None:
    if any(path.exists() and not path.is_file() for path in files.all):
        return  # it is there to be read, and only once
    load_trust(files, files.read(), datetime.now(UTC), demanding=demanding)
