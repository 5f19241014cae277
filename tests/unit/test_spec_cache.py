"""A spec is parsed once for each generation of each object, and not kept for ever."""

from __future__ import annotations

import pytest

from finetune_operator.controller import spec_cache
from finetune_operator.controller.spec_cache import SpecCache
from tests.unit.observations import ANOTHER_UID, body


def test_a_generation_is_parsed_once() -> None:
    known = SpecCache()
    first = known.of(body())
    assert first[0] is not None
    assert known.of(body())[0] is first[0]


def test_a_changed_spec_and_a_namesake_are_read_anew() -> None:
    known = SpecCache()
    known.of(body())
    for changed in (body(generation=2, run=2), body(uid=ANOTHER_UID, run=3)):
        spec, error = known.of(changed)
        assert (spec.run if spec else None, error) == (changed["spec"]["run"], None)


def test_a_broken_spec_keeps_its_error() -> None:
    known, broken = SpecCache(), body(baseModel=3)
    assert known.of(broken) == known.of(broken)
    assert "baseModel" in str(known.of(broken)[1])


def test_what_was_looked_at_long_ago_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_cache, "KEPT_BYTES", 2 * spec_cache.LEAST)
    known = SpecCache()
    first = known.of(body(uid="1"))[0]
    for uid in ("2", "3"):
        known.of(body(uid=uid))
    assert known.of(body(uid="1"))[0] is not first


def test_what_was_looked_at_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_cache, "KEPT_BYTES", 2 * spec_cache.LEAST)
    known = SpecCache()
    first = known.of(body(uid="1"))[0]
    for uid in ("2", "1", "3"):
        known.of(body(uid=uid))
    assert known.of(body(uid="1"))[0] is first
