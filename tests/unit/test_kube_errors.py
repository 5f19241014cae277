"""Which answers to a create are a no to this very object."""

from __future__ import annotations

import pytest

from finetune_operator.kube.errors import Unreachable, from_answer, is_refusal


@pytest.mark.parametrize("status", [400, 402, 403, 405, 413, 415, 422, 451])
def test_a_no_to_the_object(status: int) -> None:
    assert is_refusal(from_answer(status, {"reason": "Odd", "message": "no"}, None))


@pytest.mark.parametrize("status", [404, 408, 409, 410, 425, 429, 500, 503, 504])
def test_trouble_of_the_moment_is_none(status: int) -> None:
    assert not is_refusal(from_answer(status, {"reason": "Odd", "message": "no"}, None))
    assert not is_refusal(Unreachable("reset"))


def test_nor_are_credentials_that_are_not_known() -> None:
    assert not is_refusal(from_answer(401, {"reason": "Unauthorized", "message": "Unauthorized"}, None))
    said = 'admission webhook "jobs.example.com" denied the request: ask first'
    assert is_refusal(from_answer(401, {"reason": "Unauthorized", "message": said}, None))
