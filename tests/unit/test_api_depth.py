"""A free-form field may be so many levels deep, and no depth is too much to say so."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.depth import MAX_LEVELS, below, too_deep
from finetune_operator.controller.model import read_spec
from tests.api.finetunes import changed, fine_tune


def lists(levels: int) -> list[Any]:
    """Lists in lists."""
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


def objects(levels: int) -> dict[str, Any]:
    """Objects in objects, with something beside each."""
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"beside": ["{", 1], "next": made}
    return made


@pytest.mark.parametrize("made", [lists, objects])
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 1100, 20_000])
def test_levels_are_counted_from_the_value_itself(made: Any, levels: int) -> None:
    assert too_deep(made(levels)) is (levels > MAX_LEVELS)


@pytest.mark.parametrize(
    ("value", "found"), [("[[", []), (None, []), ([], []), ([[], {}], [[], {}]), ([[1], [[2]]], [[1], [[2]]])]
)
def test_what_stands_below(value: Any, found: list[Any]) -> None:
    assert below(value, 1) == found


def test_a_list_that_holds_itself_has_an_end() -> None:
    ring: list[Any] = []
    ring += [ring, ring]
    assert too_deep(ring)


@pytest.mark.parametrize("field", ["advanced", "affinity"])
@pytest.mark.parametrize("levels", [2, 300, 1005, 1100, 9000])
def test_what_is_deep_in_a_spec_is_named(field: str, levels: int) -> None:
    manifest = changed(fine_tune(), f"spec.backend.job.{field}", {"x": lists(levels - 1)})
    spec, error = read_spec(manifest["spec"])
    assert spec is None
    assert error == f"spec.backend.job.{field}.x: there is no such field; correct its name, or remove it"


@pytest.mark.parametrize("raw", [[], "text", 3, [[lists(1005)]], {"run": "three"}, {"baseModel": lists(1005)}])
def test_a_spec_of_another_shape_is_an_error_too(raw: Any) -> None:
    spec, error = read_spec(raw)
    assert spec is None
    assert error is not None
    assert error.startswith("spec")
    assert "spec.:" not in error
