"""The naming rule goes both ways, for every name that the resource has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.names import MAX_NAME_LENGTH, MAX_RUN, camel, job_name, named_run, snake
from finetune_operator.api.recipes import RECIPE_MODELS, RECIPES


@given(st.lists(st.from_regex(r"\A[a-z]{1,6}\Z"), min_size=1, max_size=5).map("_".join))
def test_camel_and_snake_are_inverse(name: str) -> None:
    assert snake(camel(name)) == name


def test_every_recipe_and_parameter_follows_the_rule() -> None:
    assert {snake(recipe) for recipe in RECIPES} == {
        "text_generation",
        "text_chat_messages",
        "image_to_text",
        "image_generation",
        "image_editing",
        "multi_image_editing",
        "image_to_video",
        "text_to_video",
        "voice",
    }
    for model in RECIPE_MODELS.values():
        assert [snake(str(field.alias)) for field in model.model_fields.values()] == list(model.model_fields)


def test_a_job_of_the_longest_name_and_run_has_a_label_for_a_name() -> None:
    assert len(job_name("x" * MAX_NAME_LENGTH, MAX_RUN)) == 63


@given(
    st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?\Z"),
    st.integers(1, MAX_RUN),
)
def test_the_name_of_a_job_is_read_back(name: str, run: int) -> None:
    assert named_run(job_name(name, run)) == (name, run)


@pytest.mark.parametrize(
    ("job", "run"),
    [
        ("receipts-2", ("receipts", 2)),
        ("a-b-2147483647", ("a-b", 2147483647)),
        ("a-1-1", ("a-1", 1)),
        ("a-2147483648", None),
        ("a-0", None),
        ("a-01", None),
        ("a", None),
        ("-1", None),
        ("A-1", None),
        ("a-1/x", None),
        ("a--1", None),
    ],
)
def test_the_run_in_a_name(job: str, run: tuple[str, int] | None) -> None:
    assert named_run(job) == run
