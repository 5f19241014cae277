"""Reading JSON whose shape nobody vouches for. Pure.

What does not fit is dropped: what is missing then is noticed where it is needed. Numbers may come as texts, lists as
null, ids as numbers; nothing that these functions give is larger than the status has room for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Transient

MAX_IDENTIFIER: Final = 316
"""Characters of `status.upstream.id`."""
MAX_COUNT: Final = 2**53
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:~@+=-]*")
_NO_IDS: Final = frozenset({"null", "none", "nil", "undefined", "nan", "true", "false"})
"""What languages write for nothing."""
_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][+-]?[0-9]{1,3})?")
_SECONDS_BELOW: Final = 1e11
"""A larger number of seconds since 1970 are milliseconds."""


def items(value: object) -> list[Any]:
    """The list, or none."""
    return value if isinstance(value, list) else []


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in the list, if it is one."""
    return [item for item in items(value) if isinstance(item, dict)]


def texts(value: object) -> list[str]:
    """The texts in the list, if it is one."""
    return [item for item in items(value) if isinstance(item, str) and item]


def identifiers(value: object) -> list[str]:
    """What can be ids in the list, if it is one."""
    return [known for item in items(value) if (known := identifier(item)) is not None]


def identifier(value: object) -> str | None:
    """An id: a text of the characters that ids have, or a whole number. None for what is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if 0 <= value < MAX_COUNT else None
    return new_identifier(value)


def new_identifier(value: object) -> str | None:
    """The id in the answer to a create, which every provider documents as a text. None for what is none.

    Such an answer counts as lost, and the run is looked for by its marker: a wrong id, once believed, would leave the
    right one running, and billed, with nobody who knows of it.
    """
    if not isinstance(value, str) or len(value) > MAX_IDENTIFIER or _IDENTIFIER.fullmatch(value) is None:
        return None
    return None if ".." in value or value.lower() in _NO_IDS else value


def number(value: object) -> float | None:
    """A finite number; a text that is nothing else counts."""
    if isinstance(value, str):
        if _DIGITS.fullmatch(value.strip()) is None:
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def count(value: object) -> int | None:
    """A number that is not negative, without its fraction."""
    found = number(value)
    return int(found) if found is not None and 0 <= found < MAX_COUNT else None


def moment(value: object) -> datetime | None:
    """A time: ISO 8601 (without a zone: UTC), or seconds or milliseconds since 1970."""
    if isinstance(value, str) and _DIGITS.fullmatch(value) is None:
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    since = number(value)
    if since is None or since <= 0:
        return None
    try:
        return datetime.fromtimestamp(since if since < _SECONDS_BELOW else since / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def timestamp(value: object) -> str | None:
    """A time as a status holds it: RFC 3339 in whole seconds."""
    try:
        found = moment(value)
    except OverflowError:
        return None
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if found is not None and found.year > 1000 else None


def rows(body: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    """The objects of a listing. Raises Transient where there is no listing: that is not the same as an empty one.

    A null is an empty list, unless the rest of the answer says that there is something.
    """
    found = body.get(field, "missing")
    if isinstance(found, list) or (found is None and not body.get("total") and not body.get("has_more")):
        return objects(found)
    raise Transient(f"the answer holds no list of {field}", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
