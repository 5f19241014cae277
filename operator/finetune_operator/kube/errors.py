"""What the API server can answer besides what was asked for.

ApiError
├── BadRequest         400
├── Unauthorized       401
├── Forbidden          403   (also: refused by a quota)
├── NotFound           404
├── Conflict           409
│   └── AlreadyExists  409
├── Gone               410
├── Invalid            422   (also: a JSON patch whose test failed)
├── TooManyRequests    429
├── ServerError        5xx
└── Unreachable        no answer: refused, reset or timed out; the call may have been carried out
"""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is not a success. `message` is the API server's own; `retry_after` is in seconds."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else f"{reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class BadRequest(ApiError):
    """400."""


class Unauthorized(ApiError):
    """401."""


class Forbidden(ApiError):
    """403."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409."""


class AlreadyExists(Conflict):
    """409 on a create."""


class Gone(ApiError):
    """410."""


class Invalid(ApiError):
    """422."""


class TooManyRequests(ApiError):
    """429."""


class ServerError(ApiError):
    """5xx."""


class Unreachable(ApiError):
    """No answer."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "Unreachable", message)


class NoCredentials(ApiError):
    """The call was not made. `hint`: what to do, where the kubeconfig says it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(0, "NoCredentials", f"getting credentials: {message}")
        self.hint = hint


class NoCluster(Exception):
    """No usable kubeconfig, and not in a pod."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def from_answer(status: int, body: Any, retry_after: str | None) -> ApiError:
    """The error for an answer; `body` is the parsed metav1.Status, or whatever else came."""
    answer = body if isinstance(body, dict) else {}
    reason = str(answer.get("reason") or "Unknown")
    message = str(answer.get("message") or body or "no message")[:4096]
    kind = ServerError if status >= 500 else _BY_STATUS.get(status, ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(status, reason, message, _seconds(retry_after))


_PASSING = frozenset({404, 408, 409, 410, 425, 429})
"""About the moment, the namespace or another object: the queue tries again."""


def is_refusal(error: ApiError) -> bool:
    """Whether the API server, or a policy that it asks, will not have this very object as it is.

    A webhook may say so with 401 too; where our credentials are not known, there is nothing but that word.
    """
    if error.status == 401:
        return error.message != "Unauthorized"
    return 400 <= error.status < 500 and error.status not in _PASSING


def names_unknown_field(error: ApiError) -> bool:
    """Whether a write failed only because its validation was strict."""
    return error.status in (400, 422) and "strict decoding error" in error.message


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
