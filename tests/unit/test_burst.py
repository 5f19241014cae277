"""Many Jobs at once are a rush; a steady few are not."""

from __future__ import annotations

import pytest

from finetune_operator.controller.burst import Burst


@pytest.mark.parametrize(
    ("times", "now", "on"),
    [
        ((), 100, False),
        ([100] * 9, 100, False),
        ([100] * 10, 100, True),
        ([100] * 10, 101.9, True),
        ([100] * 10, 102, False),
        ([100 + index / 10 for index in range(30)], 103, True),
        ([100 + index for index in range(30)], 130, False),
    ],
)
def test_ten_within_two_seconds(times: list[float], now: float, on: bool) -> None:
    clock = iter([*times, now])
    burst = Burst(lambda: next(clock, now))
    for _ in times:
        burst.created()
    assert burst.is_on() is on
