"""From when until when a certificate is valid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from api.errors import ConfigError, CredentialsError

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far a peer's clock may be behind the issuer's and still find a new certificate valid."""


@dataclass(frozen=True, slots=True)
class Validity:
    """A period in UTC, both ends included (RFC 5280, section 4.1.2.5), in whole seconds."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def starting(
        cls,
        now: datetime,
        lifetime: timedelta,
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Validity:
        """From :data:`CLOCK_SKEW` before ``now`` until ``lifetime`` after it, unless an end is given.

        Raises:
            ConfigError: the period ends before it begins.
            ValueError: a time has no time zone.
        """
        begin = _utc_seconds(not_before if not_before is not None else now - CLOCK_SKEW)
        end = _utc_seconds(not_after if not_after is not None else now + lifetime)
        if end <= begin:
            raise ConfigError(f"a certificate cannot be valid from {utc_text(begin)} until {utc_text(end)}")
        return cls(begin, end)


def check_within(validity: Validity, ca_end: datetime, now: datetime, ca: str) -> None:
    """See that nothing signed outlives its CA: it would be refused early, on a day that its own text does not tell.

    Raises:
        CredentialsError: it would; the message says how many days would fit.
    """
    if validity.not_after <= ca_end:
        return
    days = (ca_end - now) // timedelta(days=1)
    advice = f"--days {days} would fit" if days >= 1 else "make a new CA first"
    raise CredentialsError(
        f"the certificate would be valid until {utc_text(validity.not_after)}, but {ca} only until "
        f"{utc_text(ca_end)}: {advice}"
    )


def utc_text(moment: datetime) -> str:
    """An aware time in UTC, in ISO 8601, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _utc_seconds(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; the clock is given in aware times")
    return moment.astimezone(UTC).replace(microsecond=0)
