"""A provider's words name the user's files."""

from __future__ import annotations

import pytest

from finetune_operator.backends.providers.file_names import names_in, packed_names, with_names


def test_names_survive_the_status_as_far_as_there_is_room() -> None:
    names = {f"asset_{number:04d}": f"pictures/a rather long name {number}.png" for number in range(1000)}
    packed = packed_names(names)
    assert len(packed) == 4
    assert all(len(text) <= 4096 for text in packed.values())
    found = names_in({**packed, "files00": "[]", "names9": "[", "pictures": "3"})
    assert len(found) > 200
    assert found == {known: names[known] for known in found}
    assert packed_names({}) == {}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("0001.png is too small", "cat.png is too small"),
        ("bad files: 0001.png, 0002.png.", "bad files: cat.png, dog.jpg."),
        ("asset 10001.png, 0001.pngx and x-0001.png", "asset 10001.png, 0001.pngx and x-0001.png"),
        ("file_data/0001.png", "file_data/cat.png"),
        ("nothing", "nothing"),
    ],
)
def test_only_whole_names_are_replaced(said: str, told: str) -> None:
    assert with_names(said, {"0001.png": "cat.png", "0002.png": "dog.jpg"}) == told
