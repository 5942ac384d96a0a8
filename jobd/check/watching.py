"""What an operator is to be told by: metrics and the audit log."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from api.address import parse_address
from api.errors import JobdError
from jobd.audit.file import end_of, open_there
from jobd.check.finding import Finding, Findings, good, weak, wrong
from jobd.config import Config
from jobd.metrics.http import bind_metrics
from jobd.metrics.metrics import check_file
from jobd.unprivileged import acting_as, server_user


def metrics(config: Config, *, in_use: bool) -> Findings:
    """Can they be told where they are to be?

    Args:
        in_use: a jobd has the state directory, and so the address, now.
    """
    if config.metrics_anywhere and not config.metrics:
        yield wrong("metrics", "--metrics-anywhere: there is no --metrics")
    if config.metrics and in_use:
        yield good("metrics", f"{config.metrics} was not tried: a jobd is running")
    elif config.metrics:
        try:
            with closing(bind_metrics(*parse_address(config.metrics), anywhere=config.metrics_anywhere)):
                yield good("metrics", f"{config.metrics} is free")
        except JobdError as exc:
            yield wrong("metrics", exc)
    if config.metrics_anywhere:
        yield weak("metrics", "--metrics-anywhere: whoever reaches that address reads them, without TLS")
    if config.metrics_file:
        try:
            check_file(config.metrics_file)
        except JobdError as exc:
            yield wrong("metrics", exc)
        else:
            yield good("metrics", f"{config.metrics_file} is written every {config.metrics_interval:g} s")
    if not config.metrics and not config.metrics_file:
        yield weak("metrics", "no --metrics and no --metrics-file: nobody is alerted when something goes wrong")


def audit(config: Config) -> Findings:
    """Can the audit log be gone on with, by the server's user?"""
    path = config.audit_log
    if path is None:
        yield weak("audit log", "no --audit-log: lines are in the log, where nothing shows that one was changed")
        return
    try:
        who = server_user(config)
    except JobdError:
        return  # that is told where users are looked at
    try:
        with acting_as(who):
            found = _audit_log(path)
    except OSError as exc:
        found = wrong("audit log", f"{path} cannot be used: {exc.strerror}")
    except JobdError as exc:
        found = wrong("audit log", exc)
    yield found


def _audit_log(path: Path) -> Finding:
    try:
        fd = open_there(path)
    except FileNotFoundError:
        if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return good("audit log", f"{path} will be made")
        return wrong("audit log", f"{path} cannot be made: there is no directory {path.parent} to write in")
    try:
        end_of(fd, path)
    finally:
        os.close(fd)
    if not os.access(path, os.W_OK, effective_ids=True):
        return wrong("audit log", f"{path} cannot be written")
    return good("audit log", f"{path} is there; 'jobd audit verify' says whether it is whole")
