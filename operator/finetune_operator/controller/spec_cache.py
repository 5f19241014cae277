"""The parsed specs of the FineTunes that were looked at last: a run is looked at a dozen times, and its spec is one."""

from __future__ import annotations

from cachetools import LRUCache

from finetune_operator.api.objects import Object
from finetune_operator.controller.model import ParsedSpec, read_spec

KEPT = 1000


class SpecCache:
    """By uid and generation: the API server raises the latter with every change of a spec."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[str, int], ParsedSpec] = LRUCache(KEPT)

    def of(self, body: Object) -> ParsedSpec:
        """What `read_spec` says of it."""
        version = (body["metadata"]["uid"], body["metadata"].get("generation", 0))
        parsed = self._kept.get(version)
        if parsed is None:
            parsed = self._kept[version] = read_spec(body.get("spec") or {})
        return parsed
