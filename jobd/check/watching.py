"""What an operator is to be told by: metrics and the audit log."""

from __future__ import annotations

from api.address import parse_address
from api.errors import JobdError
from jobd.audit.file import see_that_it_can_be_written
from jobd.check.finding import Finding, Findings, good, untried, weak, wrong
from jobd.config import Config
from jobd.metrics.http import bind_metrics, resolve_metrics
from jobd.metrics.metrics import check_file
from jobd.unprivileged import acting_as, server_user
from jobd.worker.identity import own


def metrics(config: Config, *, in_use: bool) -> Findings:
    """Can they be told where they are to be?

    Args:
        in_use: a jobd has the state directory, and so the address, now.
    """
    if config.metrics:
        yield _metrics_address(config, in_use=in_use)
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


def _metrics_address(config: Config, *, in_use: bool) -> Finding:
    try:
        host, port = parse_address(config.metrics)
        if in_use:
            resolve_metrics(host, port, anywhere=config.metrics_anywhere)
            return untried("metrics", f"{config.metrics} was not tried: a jobd is running")
        bind_metrics(host, port, anywhere=config.metrics_anywhere).close()
    except JobdError as exc:
        return wrong("metrics", exc)
    return good("metrics", f"{config.metrics} is free")


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
            is_there = see_that_it_can_be_written(path, (who or own()).name)
    except JobdError as exc:
        yield wrong("audit log", exc)
    else:
        says = "is there; 'jobd audit verify' says whether it is whole" if is_there else "will be made"
        yield good("audit log", f"{path} {says}")
