"""What the watches have told, newest first: FineTunes and Jobs by name. Never a source of truth for writes.

A write's answer goes in here too, so that a reconcile sees its own writes before the watch brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachetools import FIFOCache

from finetune_operator.api.objects import Object
from finetune_operator.controller.trim import NotKept, trim_finetune, trim_job

Name = tuple[str, str]

_REMEMBERED = 4096
"""Deletions kept in mind: far more than can happen while the answer to a write is on its way."""


class Malformed(Exception):
    """What came is not an object as Kubernetes makes them."""


class Store:
    """Objects of one resource by (namespace, name); an older version never replaces a newer one.

    `trim`: takes off an object, in place, what nobody reads. May raise NotKept.
    """

    def __init__(self, trim: Callable[[Object], None]) -> None:
        self._trim = trim
        self._objects: dict[Name, Object] = {}
        self._owned: dict[str, tuple[Name, ...]] = {}
        """By the controller's uid. Few have one, and it owns few: a tuple of the names that are kept anyway."""
        self._deleted: FIFOCache[str, int] = FIFOCache(_REMEMBERED)
        self._being_written: dict[Name, Object] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, name: Name) -> Object | None:
        """The newest version seen; None where it is not (or no longer) there."""
        return self._objects.get(name)

    def names(self) -> list[Name]:
        """Everything that is there."""
        return list(self._objects)

    def values(self) -> list[Object]:
        """Every object that is there."""
        return list(self._objects.values())

    def owned_by(self, uid: str) -> list[Object]:
        """Every object whose controller has this uid, in no order."""
        return [self._objects[name] for name in self._owned.get(uid, ())]

    def put(self, body: Object) -> bool:
        """Keep it, unless what is kept is as new or it is known to be deleted since; whether it was kept.

        `body` is trimmed in place. A namesake made later always has the greater version. Raises Malformed.
        """
        name = name_of(body)
        version = _version(body)
        known = self._objects.get(name)
        if known is not None and _version(known) >= version:
            return False
        if version < self._deleted.get(_uid(body), 0):
            return False
        if not isinstance(body.get("status") or {}, dict):
            raise Malformed("its status is not an object")
        try:
            self._trim(body)
        except NotKept as error:
            raise Malformed(str(error)) from None
        if known is not None:
            self._disown(known)
        self._objects[name] = body
        if owner := _controller_uid(body):
            self._owned[owner] = (*self._owned.get(owner, ()), name)
        return True

    def _disown(self, known: Object) -> None:
        owner = _controller_uid(known)
        if owner is None:
            return
        left = tuple(name for name in self._owned[owner] if name != name_of(known))
        if left:
            self._owned[owner] = left
        else:
            del self._owned[owner]

    @contextmanager
    def writing(self, name: Name, status: Object) -> Iterator[None]:
        """While a status is on its way to the API server; the watch often brings it before the answer comes."""
        self._being_written[name] = status
        try:
            yield
        finally:
            self._being_written.pop(name, None)

    def is_echo(self, body: Object) -> bool:
        """Whether it is what we are writing ourselves, and no more than that: true once for each write.

        What others changed before has had an event of its own; what they change after, before we have the answer, has
        our status too.
        """
        name = name_of(body)
        echo = name in self._being_written and self._being_written[name] == body.get("status")
        if echo:
            del self._being_written[name]
        return echo

    def remove(self, name: Name, uid: str | None = None) -> None:
        """Forget it; where a uid is given, only that one and not a namesake made since."""
        known = self._objects.get(name)
        if known is not None and (uid is None or _uid(known) == uid):
            self._disown(known)
            del self._objects[name]

    def delete(self, body: Object) -> None:
        """Forget what the API server says is deleted, so that no answer to an earlier write brings it back.

        Raises Malformed.
        """
        self._deleted[_uid(body)] = _version(body)
        self.remove(name_of(body), _uid(body))


def name_of(body: Object) -> Name:
    """(namespace, name). Raises Malformed."""
    try:
        metadata = body["metadata"]
        return metadata["namespace"], metadata["name"]
    except (KeyError, TypeError):
        raise Malformed("it has no namespace and name") from None


def _version(body: Object) -> int:
    # Comparable as whole numbers: Kubernetes guarantees it since 1.35, and etcd has always made them so.
    try:
        return int(body["metadata"]["resourceVersion"])
    except (KeyError, TypeError, ValueError):
        raise Malformed("its resourceVersion is not a number") from None


def _uid(body: Object) -> str:
    try:
        return str(body["metadata"]["uid"])
    except (KeyError, TypeError):
        raise Malformed("it has no uid") from None


def _controller_uid(body: Object) -> str | None:
    for reference in body["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return str(reference["uid"])
    return None


class Cache:
    """Both stores, and what a reconcile learnt from the API server's refusals."""

    def __init__(self) -> None:
        self.finetunes = Store(trim_finetune)
        self.jobs = Store(trim_job)
