"""Finds secret values in texts: as they are, and escaped as they travel. Pure; for operator and trainer.

Any character may be escaped by itself, in any mixture and several times over: percent-encoding in either case, JSON and
JavaScript (`\\/`, `\\u002f`, `\\x2f`), HTML (`&#47;`, `&#x2f;`, `&sol;`). Base64 is found with and without padding, in
the alphabet for URLs too, and in the middle of something longer (`user:secret`). Values may be long: the work is that
of looking for them, whatever they are.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html.entities import html5
from typing import Final

ENOUGH_BASE64: Final = 8
"""Characters of base64 that are enough of a secret to be looked for inside of something longer."""
LAYERS: Final = 4
"""Of escaping: HTML inside JSON inside a URL, in a document of JSON."""
KEPT: Final = 4096
"""Characters of a value whose forms are kept."""
_SIGNS: Final = (b"%", b"&", b"\\")
_ESCAPE: Final = re.compile(
    rb"[%&\\](?:"  # first what all of them begin with: most of a text is passed over quickly
    rb"(?<=%)([0-9a-fA-F]{2})"
    rb"|(?<=\\)\\*(?:u([dD][89abAB][0-9a-fA-F]{2})\\+u([dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([bfnrt\"'/]))"
    rb"|(?<=&)(?:#[xX]0{0,9}([0-9a-fA-F]{1,6});?|#0{0,9}([0-9]{1,7});?|([A-Za-z][A-Za-z0-9]{1,31};)))"
)
_SHORT: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_IN_URLS: Final = str.maketrans("+/", "-_")


class Finder:
    """Takes these values out of texts. Empty ones are left out."""

    def __init__(self, values: Iterable[str], mask: str) -> None:
        forms = {form for value in values if value for form in _forms(value)}
        self._forms = sorted(forms, key=len, reverse=True)
        self._raw = [_bytes(form) for form in self._forms]
        self._mask = mask

    def is_in(self, raw: bytes) -> bool:
        """Whether one of them is in a document, however it is escaped."""
        if any(form in raw for form in self._raw):
            return True
        if not self._raw or not any(sign in raw for sign in _SIGNS):
            return False
        for _ in range(LAYERS):
            before, raw = raw, _ESCAPE.sub(_unescaped, raw)
            if raw == before:
                return False
            if any(form in raw for form in self._raw):
                return True
        return False

    def without(self, text: str) -> str:
        """The text, each value in it replaced by the mask."""
        for form in self._forms:
            text = text.replace(form, self._mask)
        raw = _bytes(text)
        return self._masked(raw).decode(errors="surrogatepass") if self.is_in(raw) else text

    def _masked(self, raw: bytes) -> bytes:
        layer, begins = raw, list(range(len(raw) + 1))
        spans: list[tuple[int, int]] = []
        for _ in range(LAYERS):
            layer, inner = _mapped(layer)
            begins = [begins[each] for each in inner]
            spans += [(begins[first], begins[end]) for form in self._raw for first, end in _found(form, layer)]
        masked, done = bytearray(), 0
        for first, end in sorted(spans):
            if first >= done:
                masked += raw[done:first] + self._mask.encode()
            done = max(done, end)
        return bytes(masked + raw[done:])


def _mapped(raw: bytes) -> tuple[bytes, list[int]]:
    """Unescaped; and for each byte of it, and its end, where it begins in `raw`."""
    out, begins, done = bytearray(), list[int](), 0
    for match in _ESCAPE.finditer(raw):
        plain = _unescaped(match)
        out += raw[done : match.start()] + plain
        begins += range(done, match.start())
        begins += [match.start()] * len(plain)
        done = match.end()
    return bytes(out + raw[done:]), [*begins, *range(done, len(raw) + 1)]


def _unescaped(match: re.Match[bytes]) -> bytes:
    percent, high, low, unit, byte, short, hexadecimal, decimal, name = match.groups()
    if percent:
        return bytes.fromhex(percent.decode())
    if short:
        return _SHORT.get(short, short)
    if high:
        pair = (int(high, 16) - 0xD800) << 10
        return chr(0x10000 + pair + int(low, 16) - 0xDC00).encode()
    if name:
        text = html5.get(name.decode())
        return match[0] if text is None else text.encode()
    point = int(unit or byte or hexadecimal, 16) if unit or byte or hexadecimal else int(decimal)
    return _bytes(chr(point)) if point < 0x11_0000 else match[0]


def _found(form: bytes, text: bytes) -> Iterator[tuple[int, int]]:
    at = text.find(form)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + len(form))


def _forms(value: str) -> tuple[str, ...]:
    return _known_forms(value) if len(value) <= KEPT else _forms_of(value)


@lru_cache(maxsize=128)
def _known_forms(value: str) -> tuple[str, ...]:
    """A poll every few seconds asks for those of the same few keys."""
    return _forms_of(value)


def _forms_of(value: str) -> tuple[str, ...]:
    found = {value, html.escape(value), value.replace(" ", "+")}
    within = value
    for _ in range(LAYERS):  # with backslashes of its own, which `_ESCAPE` takes for those of an escape
        within = json.dumps(within)[1:-1]
        found.add(within)
    for form in _base64(_bytes(value)):
        found |= {form, form.translate(_IN_URLS)}
    return tuple(found)


def _base64(raw: bytes) -> Iterator[str]:
    """By itself; and at each of the three places in a group what does not depend on its neighbours, where that is
    enough."""
    alone = base64.b64encode(raw).decode()
    yield alone
    yield alone.rstrip("=")
    for before, first in enumerate((0, 2, 3)):
        core = base64.b64encode(bytes(before) + raw).decode()[first : (before + len(raw)) * 8 // 6]
        if len(core) >= ENOUGH_BASE64:
            yield core


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
