"""What the settings name: certificates, addresses, users, and what is to hold jobs."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from api.address import parse_address
from api.errors import ConfigError, JobdError
from jobd.check.finding import Findings, good, untried, weak, wrong
from jobd.config import Config
from jobd.daemon import files_of
from jobd.limits.detect import Choice, detect
from jobd.machine import means_of
from jobd.transport.listener import bind, resolve
from jobd.trust.files import others_who_write
from jobd.trust.trust import load_trust
from jobd.unprivileged import acting_as, see_that_code_is_readable, server_user
from jobd.worker.identity import Identity, UnknownAccountError, gid_of, look_up, own

READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


def file(path: Path | None) -> Findings:
    """Can others change the settings?"""
    if path is None:
        return
    for place in (path, path.absolute().parent):
        status = place.stat()
        writers = others_who_write(status)
        if writers and not status.st_mode & stat.S_ISVTX:
            says = f"{writers.who} can write {'in ' if stat.S_ISDIR(status.st_mode) else ''}{place}"
            yield weak("settings", f"{says}, and so say whom jobs run as: chmod {writers.mode} it")


def certificates(config: Config) -> Findings:
    """Do certificate, key, CAs and lists fit, are they in their time, and private?"""
    files = files_of(config)
    now = datetime.now(UTC)
    try:
        trust = load_trust(files, files.read(), now, demanding=config.crl_policy == "hard-fail")
    except JobdError as exc:
        yield wrong("certificates", exc)
        return
    for term in trust.terms:
        until = f"{term.what} in {term.path} is good until {term.ends:%Y-%m-%dT%H:%M:%SZ}"
        yield (
            weak("certificates", f"the {until}: renew it")
            if term.ends_soon <= now
            else good("certificates", f"the {until}")
        )
    for gap in trust.gaps:
        yield weak("revocation", f"{gap}; with --crl-policy soft-fail that lets everybody in")
    if config.crl is None:
        yield weak("revocation", "no --crl: a certificate that was revoked is good until its end")
    yield from _readers(config.key, "private key")
    if config.key_passphrase_file:
        yield from _readers(config.key_passphrase_file, "passphrase")


def _readers(path: Path, what: str) -> Findings:
    try:
        mode = path.stat().st_mode
    except OSError as exc:  # one that nobody needs: a passphrase for a key that is not encrypted
        yield weak(f"{what}s", f"{path} is not used, and cannot be: {exc.strerror}")
        return
    if stat.S_ISREG(mode) and mode & READABLE_BY_OTHERS:
        yield weak(f"{what}s", f"others than its owner can read the {what} {path}: chmod go-r it")


def address(config: Config, *, in_use: bool) -> Findings:
    """Can jobd listen where it is to?

    Args:
        in_use: a jobd has the state directory, and so the address, now.
    """
    try:
        host, port = parse_address(config.listen)
        resolve(host, port) if in_use else bind(host, port).close()
    except JobdError as exc:
        yield wrong("address", exc)
        return
    if in_use:
        yield untried("address", f"{config.listen} was not tried: a jobd is running")
    else:
        yield good("address", f"{config.listen} is free")


def users(config: Config) -> Findings:
    """Are those there that the server, and jobs, are to be?"""
    try:
        who = server_user(config)
    except JobdError as exc:
        yield wrong("users", exc)
        return
    if who:
        yield good("users", f"the server becomes {who.name} (uid {who.uid}), and has no privileges then")
        yield from _program(who)
    elif own().uid == 0:
        yield weak("users", "the server stays root: with --user and --job-user, neither it nor jobs would be")
    if config.job_user:
        try:
            account = look_up(config.job_user)
        except UnknownAccountError as exc:
            yield wrong("users", f"--job-user: {exc}")
        else:
            yield good("users", f"jobs run as {account.name} (uid {account.uid}) when they do not say")
    elif own().uid == 0:
        yield weak("users", "no --job-user: jobs that do not say run as root")
    for name, why in _unknown(config):
        yield weak("users", f"{name}: {why}; jobs that ask for it are not started")


def _program(who: Identity) -> Findings:
    """Can the server's user read and execute what root can?"""
    try:
        with acting_as(who):
            executable = os.access(sys.executable, os.X_OK, effective_ids=True)
            see_that_code_is_readable(who)
    except ConfigError as exc:
        yield wrong("users", exc)
        return
    if not executable:
        says = f"{who.name} cannot execute {sys.executable}"
        yield weak(
            "users", f"{says}: 'jobd backup' and 'jobd restore', as that user, do not work; install jobd elsewhere"
        )


def _unknown(config: Config) -> Iterator[tuple[str, str]]:
    for kind, rules in (("principals", config.run_as.principals), ("roles", config.run_as.roles)):
        for name, accounts in rules.items():
            for found, look_at in ((accounts.users, look_up), (accounts.groups, gid_of)):
                for account in sorted(found or ()):
                    try:
                        look_at(account)
                    except UnknownAccountError as exc:
                        yield f"[{kind}.{name}]", str(exc)


def pool(config: Config) -> Findings:
    """Can the machine be in the pool, as far as its own files say? etcd is not asked."""
    if not config.pool:
        return
    from jobd.pools.settings import settings_of  # loaded where there is a pool

    try:
        with acting_as(server_user(config)):
            found = settings_of(config)
    except JobdError as exc:
        yield wrong("pool", exc)
        return
    yield good("pool", f"other machines ask for {found.name}, at {config.advertise}")
    if found.etcd.tls is None:
        yield weak("pool", "--pool: without TLS whoever is on this machine can read the pool, and write to it")
    if config.pool_secrets is None:
        yield weak("pool", "no --pool-secrets: jobs with secrets are refused")
    else:
        yield from _readers(config.pool_secrets, "pool's secret")


def containment(config: Config) -> Findings:
    """What holds a job's processes together, and which limits?"""
    about = "control groups"
    try:
        found = detect(f"jobd-check-{os.getpid()}", Choice(config.containment), only_look=True)
    except OSError as exc:
        yield wrong(about, f"--containment {config.containment}: {exc.strerror}")
        return
    missing = sorted(config.limits.contained - found.limits)
    if missing:
        yield wrong(
            about, f"the limits of {', '.join(missing)} in the configuration cannot be held here ({found.name})"
        )
    limits = ", ".join(sorted(found.limits)) or "none"
    yield good(about, f"{found.name}, as seen from where this runs; limits that they hold: {limits}")
    for weakness in found.weaknesses:
        yield weak(about, weakness)


def isolation(config: Config) -> Findings:
    """What can jobs be kept from?"""
    try:
        means = means_of(config)
    except JobdError as exc:
        yield wrong("isolation", exc)
        return
    yield good("isolation", f"jobs can have: {', '.join(means.available) or 'nothing'}")
    for weakness in means.weaknesses:
        yield weak("isolation", weakness)
    if config.allow_new_privileges:
        yield weak("isolation", "--allow-new-privileges: a job may ask for sudo and the like to work in it")
    if os.geteuid() != 0 and not config.user:
        yield weak("isolation", "jobs run as the user that jobd does: one can end it, and read its key and records")
