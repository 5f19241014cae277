"""Which tokens of a conversation are learnt, with the templates as they are published (trl carries them)."""

import json
from typing import Any

import pytest

from finetune_trainer.language.chat_rows import ChatEncoder
from finetune_trainer.language.messages import conversation, template_options
from finetune_trainer.language.rows import RowTooLongError, RowUnfitError
from finetune_trainer.training.packing import IGNORED
from tests.trainer.tiny_text import INST, SPECIAL, byte_tokenizer, template

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


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
BOTH = [user("q"), assistant("I will look.", tool_calls=CALL), {"role": "tool", "content": "r"}, assistant("a2")]


@pytest.mark.parametrize(
    ("name", "messages", "words"),
    [
        ("llama3", TOOLS, "message 1: the chat template leaves out the call of the tool 'f'"),
        ("deepseek_r1_distill", TOOLS, "message 1: the chat template leaves out the call of the tool 'f'"),
        ("gptoss", BOTH, "message 1: the chat template leaves out its text beside its tool calls"),
        ("llama3_1", BOTH, "message 1: the chat template leaves out its text beside its tool calls"),
    ],
)
def test_what_a_template_leaves_out_of_a_turn_is_not_learnt_as_silence(
    name: str, messages: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(RowUnfitError, match=words):
        learnt(name, messages)


def test_arguments_that_a_template_leaves_out_are_missed() -> None:
    names = (
        "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
        "{%- for call in message.tool_calls or [] -%}{{ call.function.name }}{%- endfor -%}{{ '<|im_end|>\n' }}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    with pytest.raises(RowUnfitError, match="message 1: the chat template leaves out the arguments of 'f'"):
        encoder(names).spans(conversation(TOOLS))


def test_text_beside_a_call_is_learnt_where_the_template_has_it() -> None:
    (call, answer) = learnt("qwen3", BOTH)
    assert call.startswith("I will look.\n<tool_call>")
    assert answer == "a2<|im_end|>\n"


MARKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"weight": 0}, {"weight": 1}),
    ({"weight": 0.0}, {}),
    ({"train": False}, {"train": True}),
    ({"training": False}, {}),
    ({"loss_mask": 0}, {"loss_mask": 1}),
    ({"trainable": False}, {"trainable": None}),
    ({"loss": False}, {"loss": 1.0}),
]


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "gptoss"])
@pytest.mark.parametrize(("bad", "good"), MARKS)
def test_a_turn_of_weight_0_is_context(name: str, bad: dict[str, Any], good: dict[str, Any]) -> None:
    messages = [user("q1"), assistant("BAD", **bad), user("q2"), assistant("good", **good)]
    plain = [{key: each[key] for key in ("role", "content")} for each in messages]
    assert learnt(name, messages) == learnt(name, plain)[1:]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([user("q"), assistant("a", weight=0.5)], "message 1 has the weight 0.5: write 0 or 1"),
        ([user("q"), assistant("a", weight="0")], "message 1 has the weight '0': write 0 or 1"),
        ([user("q"), assistant("a", weight=0, train=True)], "message 1 has marks that contradict each other"),
        ([{**user("q"), "weight": 1}, assistant("a")], "message 0 of the role 'user' has the weight 1, but only"),
        ([user("q"), assistant("a", weight=0)], "every message of the assistant has the weight 0"),
        ([{**user("q"), "tools": [WEATHER]}, assistant("a")], "message 0 has tools: put them into the column 'tools'"),
        ([{"from": "human", "value": "q"}], "its members are from and value, and must be role and content"),
        ([user("q"), assistant("a\ud800")], "message 1 is not valid Unicode text"),
        ([user("q"), {**assistant("a"), "reasoning_content": "\ud800"}], "is not valid Unicode text"),
    ],
)
def test_messages_that_cannot_be_honoured_are_refused(messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(RowUnfitError, match=words):
        learnt("qwen3", messages)


def test_function_calls_of_the_old_format_are_tool_calls() -> None:
    old = [
        user("q1"),
        assistant(None, function_call=CALL[0]["function"]),
        {"role": "function", "name": "f", "content": "r"},
    ]
    assert learnt("qwen3", [*old, assistant("a2")]) == learnt("qwen3", TOOLS)


@pytest.mark.parametrize(
    "cells",
    [
        {"tools": [WEATHER]},
        {"tools": [json.dumps(WEATHER)]},
        {"tools": [{**WEATHER, "nothing": None}]},
        {"functions": [WEATHER["function"]]},
    ],
)
def test_the_tools_of_a_row_reach_the_template(cells: dict[str, Any]) -> None:
    found = encoder(template("qwen3"))
    spans = found.spans(conversation(TOOLS), template_options(cells))
    assert json.dumps(WEATHER) in spans[0].text
    assert [span.text for span in spans if span.trained] == learnt("qwen3", TOOLS)
    found.fit(conversation(TOOLS), template_options(cells))
    assert found.notes() == ["the chat template was given the tools of 1 rows"]
    found.fit(conversation(TOOLS))
    assert found.notes()[1].startswith("1 rows have tool calls, but no tools")


def test_variables_of_a_row_reach_the_template() -> None:
    one = [user("q"), assistant("a")]
    spans = encoder(template("qwen3")).spans(one, template_options({"chat_template_kwargs": {"enable_thinking": True}}))
    assert [span.text for span in spans if span.trained] == learnt("qwen3", one, thinking=True)
    shouting = "{{- shout }}{%- for message in messages -%}{{- message.content -}}{%- endfor -%}"
    spans = encoder(shouting).spans(one, template_options({"chat_template_kwargs": {"shout": "LOUD"}}))
    assert [span.text for span in spans] == ["LOUDq", "a"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"tools": "weather"}, "tools is not a list"),
        ({"tools": [5]}, "tools contains a value of type int instead of an object"),
        ({"tools": ["{"]}, "tools contains a text that is not JSON"),
        ({"documents": [{"title": "t", "text": "x"}]}, "leaves out the documents of the row"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs has tokenize, which the trainer sets"),
        ({"chat_template_kwargs": ["x"]}, "chat_template_kwargs is not an object"),
    ],
)
def test_columns_that_cannot_be_honoured_are_refused(cells: dict[str, Any], words: str) -> None:
    with pytest.raises(RowUnfitError, match=words):
        encoder(template("qwen3")).spans(TURNS, template_options(cells))
    with pytest.raises(RowUnfitError, match="leaves out the tools of the row"):
        encoder(template("llama3")).spans(TURNS, template_options({"tools": [WEATHER]}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3_1", "Hello!<|eot_id|>"),
        ("qwen3", "Hello!<|im_end|>\n"),
        ("qwen2_5", "Hello!<|im_end|>\n"),
        ("gptoss", "<|channel|>final<|message|>Hello!<|end|>"),
    ],
)
def test_the_assistant_may_speak_first(name: str, expected: str) -> None:
    greeting = [assistant("Hello!"), user("q1"), assistant("a1")]
    assert learnt(name, greeting)[0] == expected
    assert learnt(name, [SYSTEM, *greeting])[0] == expected
    assert learnt(name, greeting)[1:] == learnt(name, [SYSTEM, *greeting])[1:]
    assert len(learnt(name, [assistant("Hello!")])) == 1


def test_a_template_that_wants_the_user_first_says_so() -> None:
    with pytest.raises(RowUnfitError, match="rejects the conversation: roles must alternate"):
        encoder(INST).spans([assistant("Hello!"), user("q"), assistant("a")])


def test_a_part_of_a_conversation_need_not_be_one() -> None:
    """Qwen3.5's template wants a question somewhere, and a system turn alone has none."""
    greeting = [SYSTEM, assistant("Hello!"), user("q"), assistant("a")]
    assert learnt("qwen3_5_nothink", greeting)[0] == "Hello!<|im_end|>"


def test_thinking_that_a_template_drops_is_counted() -> None:
    found = encoder(template("llama3_1"))
    found.fit(conversation([user("q"), assistant("a", reasoning_content="because")]))
    assert found.notes() == ["the chat template leaves out the thinking before the last answer in 1 rows"]
