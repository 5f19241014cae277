"""How much of a listing is read: a store may go on for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Permanent, Transient

MAX_PAGES: Final = 1000
MAX_BYTES: Final = 64 * 2**20
SECONDS: Final = 600.0


@dataclass(slots=True)
class Listing:
    """Of one folder; `title` for messages."""

    title: str
    pages: int = 0
    size: int = 0

    def page(self, size: int) -> None:
        """One more, of so many bytes. Raises Permanent where there are too many, or too much."""
        self.pages, self.size = self.pages + 1, self.size + size
        if self.pages > MAX_PAGES:
            raise self._endless(f"{MAX_PAGES} pages")
        if self.size > MAX_BYTES:
            raise self._endless(f"{MAX_BYTES} bytes")

    def _endless(self, bound: str) -> Permanent:
        return Permanent(
            f"{self.title} has more than {bound}: name a file in the URI", reason=Reason.DATA_VALIDATION_FAILED
        )


@asynccontextmanager
async def listing(title: str) -> AsyncIterator[Listing]:
    """Raises Transient where it takes too long."""
    try:
        async with asyncio.timeout(SECONDS):
            yield Listing(title)
    except TimeoutError:
        raise Transient(f"{title} was not complete within {SECONDS:.0f} s", reason=Reason.DATASET_UNAVAILABLE) from None
