"""Foreign text for people: what users, pods, providers and stores say, in a terminal, a log, an Event, a status. Pure.

Text can steer a terminal (control characters), show something else than it says (directions of writing, characters
that cannot be seen), or pass for ours (a line break, and then `State: Succeeded`). All of that goes, in one place;
letters of every script, emoji and accents stay.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_UNSAFE_RANGES: Final = (
    (0x0000, 0x0008),
    (0x000B, 0x001F),
    (0x007F, 0x009F),
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xD800, 0xF8FF),
    (0xFE00, 0xFE0D),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFFB),
    (0x13430, 0x13438),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
    (0xF0000, 0xFFFFD),
    (0x100000, 0x10FFFD),
)
"""Code points, both ends included: the categories Cc (but for line feed and tab), Cf (but for the signs of numbers that
are seen), Cs, Co, Zl and Zp of Unicode 15, and what is default ignorable in another category (fillers, tags, variation
selectors but for those of emoji): nothing is seen of it, and much can be said in it."""
_BREAK: Final = re.compile(r"[ \t]*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")
_ODD_BREAK: Final = re.compile(r"\r\n|[\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_UNSAFE: Final = re.compile("[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in _UNSAFE_RANGES) + "]")


def one_line(text: str) -> str:
    """The text as one line: line breaks of every kind and tabs are a space, what is not to be seen a replacement."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(REPLACEMENT, _BREAK.sub(" ", text)).rstrip(" ")


def lines(text: str) -> str:
    """The text with its own line feeds and tabs, for what is laid out already; everything else as `one_line`."""
    return _UNSAFE.sub(REPLACEMENT, text)


def continued(text: str, indent: str = "    ") -> str:
    """`lines`, those after the first indented: nothing in them stands where a line of ours would."""
    return lines(_ODD_BREAK.sub("\n", text)).replace("\n", f"\n{indent}")


def is_safe(text: str) -> bool:
    """Whether `lines` would leave the text as it is."""
    return _UNSAFE.search(text) is None
