"""What lets a request in, and where the next one comes from when the last has run out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from finetune_operator.kube.errors import NoCredentials

REREAD: Final = timedelta(minutes=1)
"""How long a token file is not looked at again, as in client-go. The kubelet rotates tokens long before their end."""


@dataclass(frozen=True, slots=True)
class Credential:
    """`authorization`: the header. `pair`: certificate and key as PEM, where an exec plugin gives them."""

    authorization: str | None = field(default=None, repr=False)
    pair: tuple[str, str] | None = field(default=None, repr=False)


class Source(Protocol):
    """Where credentials come from. Any thread may ask."""

    def current(self) -> Credential:
        """May take as long as a plugin does. Raises NoCredentials."""

    def ready(self) -> bool:
        """Whether `current` answers at once."""

    def refuse(self, refused: Credential) -> bool:
        """The API server does not take this one (any more). Whether `current` may have another."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What stands in the kubeconfig; by default nothing."""

    credential: Credential = Credential()

    def current(self) -> Credential:
        """Always the same."""
        return self.credential

    def ready(self) -> bool:
        """Always."""
        return True

    def refuse(self, refused: Credential) -> bool:  # noqa: ARG002
        """There is no other."""
        return False


class Fetched(NamedTuple):
    """A credential, and until when it is used; None: until it is refused."""

    credential: Credential
    until: datetime | None


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


class Renewed:
    """Fetched when it is needed and when the last one has run out or was refused; once for all who wait for it.

    Only who needs another one waits: the lock is held for as long as a plugin takes, and the event loop must go on.
    """

    def __init__(self, fetch: Callable[[], Fetched], now: Callable[[], datetime] = utc_now) -> None:
        self._fetch = fetch
        self._now = now
        self._held: Fetched | None = None
        self._lock = threading.Lock()

    def current(self) -> Credential:
        """Raises NoCredentials."""
        held = self._good()
        if held is None:
            with self._lock:
                held = self._good()
                if held is None:
                    held = self._held = self._fetch()
        return held.credential

    def ready(self) -> bool:
        """Whether there is one that has not run out."""
        return self._good() is not None

    def refuse(self, refused: Credential) -> bool:
        """Fetch anew, unless somebody has done so since."""
        held = self._held
        if held is not None and held.credential is refused:
            self._held = None
        return True

    def _good(self) -> Fetched | None:
        held = self._held
        over = held is not None and held.until is not None and held.until <= self._now()
        return None if over else held


def bearer(token: str) -> Credential:
    """Raises NoCredentials where it cannot stand in a header."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise NoCredentials("the token has characters that no token has")
    return Credential(f"Bearer {token}")


def token_file(path: Path, otherwise: str = "", now: Callable[[], datetime] = utc_now) -> Renewed:
    """A token that somebody rotates. `otherwise`: for as long as the file cannot be read."""
    last = otherwise

    def fetch() -> Fetched:
        nonlocal last
        try:
            last = path.read_text(encoding="utf-8").strip() or last
        except (OSError, UnicodeError) as error:
            if not last:
                why = error.strerror if isinstance(error, OSError) else "it is not text"
                raise NoCredentials(f"{path}: {why}") from None
        if not last:
            raise NoCredentials(f"{path} is empty")
        return Fetched(bearer(last), now() + REREAD)

    return Renewed(fetch, now)
