"""What a run needs of its dataset; every check follows from this. Imports nothing, for the worker starts with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

MAX_EXAMPLES: Final = 10_000
MAX_FILE_BYTES: Final = 64 * 2**20
"""Of one picture; a recording may have four times that."""


class Kind(StrEnum):
    """What an example is."""

    PICTURES = "pictures"
    """A picture and its caption."""
    PAIRS = "pairs"
    """A source picture, a target picture and the instruction that leads from one to the other."""
    RECORDINGS = "recordings"
    """A sound file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the tables must have of a dataset that a provider reads itself."""

    all: tuple[str, ...] = ()
    """Columns that must be there."""
    filled: tuple[str, ...] = ()
    """Those of them that must hold something in every row."""
    chats: tuple[str, ...] = ()
    """Those of them that must hold a list of messages in every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The columns to read and the limits to keep. `formats`: image or sound formats by the names of `formats.py`."""

    kind: Kind
    formats: tuple[str, ...]
    image_column: str = ""
    caption_column: str = ""
    control_column: str = ""
    captions_optional: bool = False
    """A folder of pictures may lack the .txt files."""
    min_examples: int = 1
    max_examples: int = MAX_EXAMPLES
    max_file_bytes: int = MAX_FILE_BYTES

    def wire(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Needs:
        """The inverse of `wire`."""
        return cls(**{**wire, "kind": Kind(wire["kind"]), "formats": tuple(wire["formats"])})
