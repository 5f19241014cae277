"""How a call to a provider can fail. What matters is whether it may have been carried out, and whether to try again.

UpstreamError
├── Transient      surely not carried out; try again after a while
│   └── RateLimited    429; `retry_after` is the provider's own wait
├── Ambiguous      may have been carried out: look before doing it again (time-out, reset, 5xx, unreadable answer)
├── Blocked        surely not carried out; will be once somebody changes something outside the spec; looked at slowly
│   ├── AuthFailed     401 or 403: the key
│   ├── PaymentRequired 402: the account
│   └── Refused        we do not make this call: the administrator has not allowed the address
├── Permanent      surely not carried out, and never will be
│   ├── Rejected       400, 413, 422: the provider does not take this run
│   ├── PlanLimit      the account's plan forbids it
│   └── Retired        the provider has closed this endpoint
└── Gone           404 or 410 for something that was there

Messages hold the provider's own words; whoever raises one outside `http/client.py` must not put a credential into it.
The runner redacts them once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from finetune_operator.api.reasons import Reason


class FailureKind(StrEnum):
    """What a plan decides on."""

    TRANSIENT = "Transient"
    AMBIGUOUS = "Ambiguous"
    BLOCKED = "Blocked"
    PERMANENT = "Permanent"
    GONE = "Gone"


class UpstreamError(Exception):
    """`reason`: CamelCase, for conditions. `message`: a sentence with the provider's own words. `status`: HTTP, or 0.

    `retry_after`: seconds, where the provider names them.
    """

    kind = FailureKind.PERMANENT
    default_reason: str = Reason.UPSTREAM_REJECTED

    def __init__(
        self, message: str, *, reason: str | None = None, status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = str(reason or self.default_reason)
        self.status = status
        self.retry_after = retry_after


class Transient(UpstreamError):
    """Surely not carried out: try again."""

    kind = FailureKind.TRANSIENT
    default_reason = Reason.UPSTREAM_UNAVAILABLE


class RateLimited(Transient):
    """429, and not a limit of the plan."""

    default_reason = Reason.UPSTREAM_RATE_LIMITED


class Ambiguous(UpstreamError):
    """May have been carried out."""

    kind = FailureKind.AMBIGUOUS
    default_reason = Reason.UPSTREAM_UNAVAILABLE


class Blocked(UpstreamError):
    """Not before somebody changes something outside the spec."""

    kind = FailureKind.BLOCKED
    default_reason = Reason.PROVIDER_NOT_CONFIGURED


class AuthFailed(Blocked):
    """The key is wrong, or may not do this."""

    default_reason = Reason.UPSTREAM_AUTH_FAILED


class PaymentRequired(Blocked):
    """The account has no credit."""

    default_reason = Reason.UPSTREAM_PAYMENT_REQUIRED


class Refused(Blocked):
    """We do not make this call: the administrator has not allowed the base URL or the address."""

    default_reason = Reason.ADDRESS_NOT_ALLOWED


class Permanent(UpstreamError):
    """Never with this spec."""


class Rejected(Permanent):
    """The provider does not take this run."""


class PlanLimit(Permanent):
    """The account's plan forbids it."""

    default_reason = Reason.UPSTREAM_PLAN_LIMIT


class Gone(UpstreamError):
    """It was there, and is not any more."""

    kind = FailureKind.GONE
    default_reason = Reason.UPSTREAM_GONE


class Retired(Permanent):
    """The provider has closed the endpoint."""

    default_reason = Reason.PROVIDER_RETIRED


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An UpstreamError as data, for observations."""

    kind: FailureKind
    reason: str
    message: str
    status: int = 0
    retry_after: float | None = None

    def with_message(self, message: str) -> Failure:
        """The same with other words."""
        return replace(self, message=message)


def failure_of(error: UpstreamError) -> Failure:
    """The error as data."""
    return Failure(
        kind=error.kind,
        reason=error.reason,
        message=error.message,
        status=error.status,
        retry_after=error.retry_after,
    )
