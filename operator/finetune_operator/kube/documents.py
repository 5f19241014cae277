"""The API server's JSON, of which one object may be such that no parser takes it: it costs itself and not the rest.

orjson reads what is in order, and is all that is asked then. What it refuses is looked at again, bracket by bracket and
not by recursion: what is nested too deeply is emptied there, and whoever reads it finds it too deep still. What is
refused even so is a fault in the text of one object (the API server itself makes none), which is left unread.

1.2 MB of `{}` become 30 MB in memory. So what would weigh much is taken apart unread, object by object and member by
member, and members that are too heavy even so are left out: what is in memory at a time is bounded, whatever is there.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import orjson

from finetune_operator.api.depth import MAX_LEVELS
from finetune_operator.kube.weight import Omitted, is_heavy, weight

LEVELS: Final = 2 * MAX_LEVELS
"""Of a document: what a free-form field may have, and all that stands around the field, and some more, so that it is
still too deep. Less than orjson writes (254)."""

LIGHT, LIGHT_LIST = 1 << 20, 32 << 20
"""Weights (see `weight`) up to which an object, and a list, are read at a stroke."""
MAX_MEMBER: Final = 512 << 10
"""Weight of a member of a heavy object, or of its metadata, spec or status, beyond which the member is left out."""

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'


def _nested(levels: int) -> bytes:
    """A list or object of so many levels: passed over at once, as most of them are."""
    inside = rb"[^\"\[\]{}]++|" + _STRING
    for _ in range(levels):
        inside = rb"[^\"\[\]{}]++|" + _STRING + rb"|[\[{](?:" + inside + rb")*+[\]}]"
    return rb"[\[{](?:" + inside + rb")*+[\]}]"


_BRACKETS: Final = re.compile(_STRING + rb"|[\[{\]}]", re.DOTALL)
_BRACKETS_AND_COMMAS: Final = re.compile(_STRING + rb"|" + _nested(8) + rb"|[\[{\]},]", re.DOTALL)
_NAME: Final = re.compile(rb"\s*(" + _STRING + rb")\s*:", re.DOTALL)
_OPENING, _CLOSING, _PARTING = b"[{", b"]}", b",]}"


class Unreadable(dict[str, Any]):
    """In the place of an object that could not be read: of its metadata what names it, as far as that could be."""

    def __init__(self, metadata: dict[str, Any], why: str) -> None:
        super().__init__(metadata=metadata)
        self.why = why


def parse(raw: bytes) -> Any:
    """A document, without what is nested too deeply or too heavy. Raises orjson.JSONDecodeError."""
    return _by_members(raw) if is_heavy(raw, LIGHT) else _loads(raw)


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return orjson.loads(shallow(raw))


def parse_each(raw: bytes, light: int = LIGHT) -> Any:
    """A list or a watch event, with an Unreadable for each object that has a fault. Raises orjson.JSONDecodeError.

    `light`: the weight up to which it is read at a stroke.
    """
    if is_heavy(raw, light):
        return _by_members(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raw = shallow(raw)
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(raw)
        try:
            parts = _members(raw)
        except _NotWhole:
            raise error from None
        return {name: _OBJECTS.get(name, orjson.loads)(part) for name, part in parts.items()}


def shallow(raw: bytes) -> bytes:
    """The same, with empty lists and objects where they stand below `LEVELS` others."""
    kept, level, start = [], 0, 0
    for mark in _BRACKETS.finditer(raw):
        at = mark.start()
        if raw[at] in _OPENING:
            level += 1
            if level == LEVELS + 1:
                kept.append(raw[start : at + 1])
        elif raw[at] in _CLOSING:
            if level == LEVELS + 1:
                start = at
            level -= 1
    return b"".join([*kept, raw[start:]])


class _NotWhole(Exception):
    """It does not end where it should, or is neither a list nor an object."""


def _items(raw: bytes) -> Any:
    try:
        return [_object(part) for part in _parts(raw)]
    except _NotWhole:
        return orjson.loads(raw)


def _object(raw: bytes) -> Any:
    try:
        return parse(raw)
    except orjson.JSONDecodeError as error:
        return Unreadable(_naming(raw), str(error))


def _by_members(raw: bytes) -> Any:
    """A heavy document. Raises orjson.JSONDecodeError."""
    try:
        parts = _members(raw)
        return {name: _OBJECTS.get(name, _part)(part) for name, part in parts.items()}
    except _NotWhole:
        raise orjson.JSONDecodeError("it does not end where it should", "", 0) from None


def _part(raw: bytes) -> Any:
    """A member of an object: whole, else by its own members. Raises _NotWhole and orjson.JSONDecodeError."""
    if weight(raw) <= MAX_MEMBER:
        return _loads(raw)
    if not raw.lstrip().startswith(b"{"):
        return Omitted(len(raw))
    return {
        name: _loads(part) if weight(part) <= MAX_MEMBER else Omitted(len(part)) for name, part in _members(raw).items()
    }


_OBJECTS: Final = {"items": _items, "object": _object}
"""Where a list and a watch event have their objects."""


def _naming(raw: bytes) -> dict[str, Any]:
    naming = {}
    with suppress(_NotWhole, KeyError):
        for name, part in _members(_members(raw)["metadata"]).items():
            if name in ("namespace", "name", "resourceVersion"):
                with suppress(orjson.JSONDecodeError):
                    naming[name] = orjson.loads(part)
    return naming


def _members(raw: bytes) -> dict[str, bytes]:
    """The members of an object, unread. Raises _NotWhole."""
    found = {}
    for part in _parts(raw):
        name = _NAME.match(part)
        if name is None:
            raise _NotWhole
        found[name[1][1:-1].decode(errors="replace")] = part[name.end() :]
    return found


def _parts(raw: bytes) -> list[bytes]:
    """What stands between the commas of a list or an object, unread. Raises _NotWhole."""
    raw = raw.strip()
    if raw[:1] + raw[-1:] not in (b"[]", b"{}"):
        raise _NotWhole
    parts, level, start, end = [], 1, 1, -1
    for mark in _BRACKETS_AND_COMMAS.finditer(raw, 1):
        at = mark.start()
        if mark.end() - at > 1:
            continue  # a text, or a list or an object that is whole
        if raw[at] in _OPENING:
            level += 1
        elif level == 1 and raw[at] in _PARTING:
            parts.append(raw[start:at])
            start = at + 1
        if raw[at] in _CLOSING:
            level -= 1
            if level == 0 and end < 0:
                end = at
    if level or end != len(raw) - 1:
        raise _NotWhole
    return [part for part in parts if part.strip()]
