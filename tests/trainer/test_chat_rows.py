"""Which tokens of a conversation are learnt, with the templates as they are published (trl carries them)."""

from typing import Any

import pytest

from finetune_trainer.language.chat_rows import ChatEncoder
from finetune_trainer.language.messages import conversation
from finetune_trainer.language.rows import RowTooLongError, RowUnfitError
from finetune_trainer.training.packing import IGNORED
from tests.trainer.tiny_text import SPECIAL, byte_tokenizer, template

SYSTEM = {"role": "system", "content": "Be brief."}
CALL = [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def encoder(text: str, *, thinking: bool = False, length: int = 10_000) -> ChatEncoder:
    tokenizer = byte_tokenizer(tuple(dict.fromkeys(token for tokens in SPECIAL.values() for token in tokens)))
    tokenizer.chat_template = text
    return ChatEncoder(tokenizer, length, enable_thinking=thinking)


def learnt(name: str, messages: list[dict[str, Any]], *, thinking: bool = False) -> list[str]:
    spans = encoder(template(name), thinking=thinking).spans(conversation(messages))
    whole = "".join(span.text for span in spans)
    assert whole == encoder(template(name), thinking=thinking)._render(conversation(messages))
    return [span.text for span in spans if span.trained]


TURNS = [SYSTEM, user("q1"), assistant("a1"), user("q2"), assistant("a2"), user("q3"), assistant("a3")]
TOOLS = [user("q1"), assistant(None, tool_calls=CALL), {"role": "tool", "content": "r"}, assistant("a2")]
THOUGHTS = [user("q1"), assistant("a1", reasoning_content="R1"), user("q2"), assistant("a2", reasoning_content="R2")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3_1", ["a1<|eot_id|>", "a2<|eot_id|>", "a3<|eot_id|>"]),
        ("llama3_2", ["a1<|eot_id|>", "a2<|eot_id|>", "a3<|eot_id|>"]),
        ("qwen3", ["a1<|im_end|>\n", "a2<|im_end|>\n", "a3<|im_end|>\n"]),
        ("qwen3_instruct_2507", ["a1<|im_end|>\n", "a2<|im_end|>\n", "a3<|im_end|>\n"]),
        ("gptoss", [f"<|channel|>final<|message|>{end}" for end in ("a1<|end|>", "a2<|end|>", "a3<|return|>")]),
    ],
)
def test_every_turn_of_the_assistant_is_learnt_and_nothing_else(name: str, expected: list[str]) -> None:
    assert learnt(name, TURNS) == expected
    assert learnt(name, [*TURNS, user("one more")])[:2] == expected[:2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3_1", ['{"name": "f", "parameters": {"x": 1}}<|eot_id|>', "a2<|eot_id|>"]),
        (
            "qwen3",
            ['<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n', "a2<|im_end|>\n"],
        ),
        (
            "gptoss",
            [
                ' to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>',
                "<|channel|>final<|message|>a2<|return|>",
            ],
        ),
    ],
)
def test_tool_calls_are_learnt_and_their_results_are_not(name: str, expected: list[str]) -> None:
    assert learnt(name, TOOLS) == expected
    thoughtful = [TOOLS[0], {**TOOLS[1], "reasoning_content": "R"}, *TOOLS[2:]]
    assert learnt(name, thoughtful)[-1] == expected[-1]


def test_thoughts_are_learnt_where_the_template_keeps_them() -> None:
    assert learnt("qwen3", THOUGHTS, thinking=True) == ["a1<|im_end|>\n", "<think>\nR2\n</think>\n\na2<|im_end|>\n"]
    assert learnt("qwen3", THOUGHTS) == learnt("qwen3", THOUGHTS, thinking=True)
    assert learnt("gptoss", THOUGHTS) == [
        "<|channel|>final<|message|>a1<|end|>",
        "<|channel|>analysis<|message|>R2<|end|><|start|>assistant<|channel|>final<|message|>a2<|return|>",
    ]


def test_an_empty_thinking_block_is_learnt_only_with_thinking_on() -> None:
    one = [user("q"), assistant("a")]
    assert learnt("qwen3", one) == ["a<|im_end|>\n"]
    assert learnt("qwen3", one, thinking=True) == ["<think>\n\n</think>\n\na<|im_end|>\n"]


def test_a_template_that_rewrites_everything_is_refused() -> None:
    rewriting = "{{- messages | length }}{%- for message in messages -%}{{- message.content | upper -}}{%- endfor -%}"
    with pytest.raises(RowUnfitError, match="message 1: the chat template of the base model rewrites"):
        encoder(rewriting).spans([user("1"), assistant("a"), user("2"), assistant("b")])


def test_a_template_that_drops_the_answer_is_refused() -> None:
    silent = "{%- for message in messages if message.role == 'user' -%}{{- message.content -}}{%- endfor -%}"
    with pytest.raises(RowUnfitError, match="does not render it"):
        encoder(silent).spans([user("q"), assistant("a")])


def test_dates_do_not_change_from_day_to_day() -> None:
    found = encoder(template("gptoss"))
    assert "Current date: 2024-07-26\n" in found.spans([user("q"), assistant("a")])[0].text
    assert "the chat template renders the date: it is 26 Jul 2024 in every row" in found.notes()[0]
    assert encoder(template("qwen3")).notes() == []


def test_labels_are_the_learnt_tokens_and_lengths_agree() -> None:
    found = encoder(template("qwen3"))
    ids, labels = found.encode(TURNS)
    assert len(ids) == len(labels) == found.fit(TURNS).tokens
    assert found._tokenizer.decode(ids[labels != IGNORED]) == "a1<|im_end|>\na2<|im_end|>\na3<|im_end|>\n"
    with pytest.raises(RowTooLongError, match=f"has {len(ids)} tokens; seqLength is {len(ids) - 1}"):
        encoder(template("qwen3"), length=len(ids) - 1).fit(TURNS)


def test_what_tables_make_of_messages_is_undone() -> None:
    nothing = {"name": None, "tool_calls": None}
    cell = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], **nothing},
        {"role": "assistant", "content": None, "name": None, "tool_calls": CALL},
    ]
    assert conversation(cell) == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        ]},
    ]  # fmt: skip
