"""What the sender of a file says of it, beside its bytes: kind, size and digest; and whether what came is that."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Transient
from finetune_operator.backends.transfer.spool import Stored
from finetune_operator.formats.invalid import Invalid
from finetune_operator.formats.weights import check_weights

PAGES: Final = ("text/html", "application/xhtml+xml")
"""What no file of weights is sent as."""


@dataclass(slots=True)
class Expected:
    """A file of weights. `size`: in bytes, where the provider has told it elsewhere."""

    name: str
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """Algorithm -> hex, of the whole file."""

    def told(self, status: int, headers: Mapping[str, str]) -> None:
        """Note what an answer says. Raises Transient for a page where the file should be."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in PAGES:
            raise _wrong(f"the provider sends {self.name} as {kind}: a page, and no weights")
        if status == 200:
            self.digests = dict(digests_in(headers))

    async def check(self, stored: Stored) -> str:
        """The file's name, with the ending that it should have. Raises Transient where it is not what was expected."""
        if self.size and stored.size != self.size:
            raise _wrong(f"the provider sends {stored.size} bytes of {self.name}, which has {self.size}")
        for algorithm, digest in self.digests.items():
            found = await asyncio.to_thread(_digest, stored, algorithm)
            if found != digest:
                raise _wrong(f"the provider sends {self.name} with another {algorithm} than it names: {found}")
        try:
            suffix = await asyncio.to_thread(check_weights, stored.path, self.name)
        except Invalid as error:
            raise _wrong(f"the provider sends no weights: {error}") from None
        return self.name if self.name.lower().endswith(suffix) else f"{self.name.rpartition('.')[0]}{suffix}"


def digests_in(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(algorithm, hex): what the headers of S3, of Google's storage and of RFC 9530 say of a whole file."""
    found = [("sha256", headers.get("x-amz-checksum-sha256", "")), ("md5", headers.get("content-md5", ""))]
    for part in headers.get("x-goog-hash", "").split(","):
        name, _, value = part.strip().partition("=")
        found += [("md5", value)] if name == "md5" else []
    for header in ("repr-digest", "content-digest", "digest"):
        for part in headers.get(header, "").split(","):
            name, _, value = part.strip().partition("=")
            found += [("sha256", value.strip(":"))] if name.lower() == "sha-256" else []
    for algorithm, value in found:
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            continue  # S3's digest of digests ends in -<parts>
        if len(raw) == hashlib.new(algorithm, usedforsecurity=False).digest_size:
            yield algorithm, raw.hex()


def _digest(stored: Stored, algorithm: str) -> str:
    if algorithm == "sha256":
        return stored.sha256
    with stored.path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _wrong(message: str) -> Transient:
    """It may be right the next time; the run gives up after some."""
    return Transient(message, reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS)
