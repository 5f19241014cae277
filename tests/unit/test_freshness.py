"""When a create needs the FineTune to be read first."""

from __future__ import annotations

import math

import pytest

from finetune_operator.controller.freshness import OLD, OLD_IN_LINE, needs_fresh_read
from finetune_operator.controller.model import Create, Decision, Delete, Finalize

CREATE = Decision(actions=(Create({"kind": "Job"}),))
RECORDED = Decision(actions=(Create({"kind": "Job"}),), status={"run": 2})
OTHERS = Decision(actions=(Delete("sample-1", "1"), Finalize(present=True)))


@pytest.mark.parametrize(
    ("decision", "age", "first_look", "needed"),
    [
        (CREATE, 0.0, False, False),
        (CREATE, OLD, False, False),
        (CREATE, OLD + 0.1, False, True),
        (CREATE, math.inf, False, True),
        (CREATE, OLD + 0.1, True, False),
        (CREATE, OLD_IN_LINE, True, False),
        (CREATE, OLD_IN_LINE + 0.1, True, True),
        (RECORDED, math.inf, False, False),
        (OTHERS, math.inf, False, False),
        (Decision(), math.inf, False, False),
    ],
)
def test_only_a_create_that_nothing_vouches_for(decision: Decision, age: float, first_look: bool, needed: bool) -> None:
    assert needs_fresh_read(decision, age=age, first_look=first_look) is needed
