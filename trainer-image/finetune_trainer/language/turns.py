"""Where the assistant's turns are in a rendered conversation, and whether the template has written everything.

Few templates mark the turns (`{% generation %}`), so they are found by rendering the conversation up to the turn, and
checking that the text is a prefix of the whole. For templates that render an earlier turn differently from the last one
(Qwen3 drops its thinking, gpt-oss ends it with another token), the conversation is rendered again with a marker for the
turn, and the text after the marker must be the end of the whole. A template for which neither holds is rejected.

What a template leaves out of a turn would be learned as silence: text, and tool calls, must be in what it writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from finetune_trainer.language.messages import THINKING_END, WEIGHT, Message, answer_of
from finetune_trainer.language.rows import RowUnfitError

_MARKER: Final = "finetune-answer-mark"
_CALL: Final = "finetune_call_{}_{}"
_VALUE: Final = "finetune_value_{}_{}"

Render = Callable[..., str]
"""`render(messages, thinking=…, add_generation_prompt=…)`: the text of a conversation. Raises RowUnfitError."""


@dataclass(frozen=True)
class Span:
    """A part of the rendered conversation, and whether it is trained on."""

    text: str
    trained: bool


class Turns:
    """One conversation. first_token: the first token of a text, if it is one of the special tokens, else empty."""

    def __init__(
        self, messages: list[Message], render: Render, first_token: Callable[[str], str], *, thinking: bool
    ) -> None:
        self._messages, self._render, self._first_token, self._thinking = messages, render, first_token, thinking
        self.whole = render(messages, thinking=thinking)
        try:
            self.whole.encode()
        except UnicodeEncodeError:
            raise RowUnfitError("is not valid Unicode text") from None

    def spans(self) -> list[Span]:
        """The rendered conversation, in spans. Raises RowUnfitError."""
        self._require_context()
        self._require_calls()
        spans, done = [], 0
        for index, message in enumerate(self._messages):
            if message["role"] != "assistant":
                continue
            start, end = self._start(index, done), self._end(index)
            if not done <= start < end:
                raise RowUnfitError(f"message {index}: the chat template does not render it, or renders it elsewhere")
            turn = self.whole[start:end]
            self._require_answer(index, turn)
            spans += [Span(self.whole[done:start], False), Span(turn, message.get(WEIGHT) != 0)]
            done = end
        if not spans:
            raise RowUnfitError("has no assistant message")
        if not any(span.trained for span in spans):
            raise RowUnfitError("nothing is left to train on: every message of the assistant has the weight 0")
        return [span for span in [*spans, Span(self.whole[done:], False)] if span.text]

    def lost_thoughts(self) -> bool:
        """Whether the template leaves out the thinking before the last answer."""
        last = next((each for each in reversed(self._messages) if each["role"] == "assistant"), {})
        content, end, _ = last.get("content", "").partition(THINKING_END)
        thoughts = last.get("reasoning_content") or last.get("thinking") or (content if end else "")
        return isinstance(thoughts, str) and thoughts.removeprefix("<think>").strip() not in self.whole

    # ------------------------------------------------------- what must be there

    def _require_context(self) -> None:
        for index, message in enumerate(self._messages):
            role, content = message["role"], message["content"].strip()
            if role != "assistant" and not any(form in self.whole for form in _forms(content)):
                raise RowUnfitError(f"message {index}: the chat template drops the content of the role {role!r}")

    def _require_answer(self, index: int, turn: str) -> None:
        message = self._messages[index]
        answer = answer_of(message["content"])
        if not any(form in turn for form in _forms(answer)):
            beside = " beside its tool calls" if message.get("tool_calls") else ""
            raise RowUnfitError(f"message {index}: the chat template leaves out its text{beside}")

    def _require_calls(self) -> None:
        """Render the conversation with other calls, and look whether they appear."""
        if not any(message.get("tool_calls") for message in self._messages):
            return
        rendered = self._render([_probed(message, index) for index, message in enumerate(self._messages)])
        for index, message in enumerate(self._messages):
            for number, call in enumerate(message.get("tool_calls") or []):
                name = call["function"]["name"]
                if _CALL.format(index, number) not in rendered:
                    raise RowUnfitError(f"message {index}: the chat template leaves out the call of the tool {name!r}")
                if _VALUE.format(index, number) not in rendered:
                    raise RowUnfitError(f"message {index}: the chat template leaves out the arguments of {name!r}")

    # ---------------------------------------------------- where a turn is

    def _start(self, index: int, done: int) -> int:
        rendered = False
        for head in self._heads(index):
            rendered = True
            if self.whole.startswith(head):
                return len(head)
        head = self._around_marker(self._messages, index)[0]
        if not self.whole.startswith(head):
            raise self._unclear(index)
        return len(head) if rendered else self._after_generation_prompt(done, len(head))

    def _heads(self, index: int) -> Iterator[str]:
        """What a server sends before the turn, where the template renders that: not every one begins with a turn.

        With thinking disabled it may end with an empty thinking block, which earlier turns do not have, and turns with
        thinking fill.
        """
        before = self._messages[:index]
        if not before:
            return
        for history in (before, [_without_thinking(message) for message in before]):
            for thinking in (self._thinking, not self._thinking):
                try:
                    yield self._render(history, thinking=thinking, add_generation_prompt=True)
                except RowUnfitError:
                    continue

    def _after_generation_prompt(self, done: int, content: int) -> int:
        """The start of a turn without a head. content: where its text begins."""
        question: list[Message] = [{"role": "user", "content": "x"}]
        for thinking in (self._thinking, not self._thinking):
            try:
                short = self._render(question, thinking=thinking)
                prompt = self._render(question, thinking=thinking, add_generation_prompt=True).removeprefix(short)
            except RowUnfitError:
                continue
            at = self.whole.rfind(prompt, done, content) if prompt else -1
            if at >= 0:
                return at + len(prompt)
        return content

    def _end(self, index: int) -> int:
        for turn in (self._messages[index], _without_thinking(self._messages[index])):
            upto = self._rendered_or_empty([*self._messages[:index], turn])
            if upto and self.whole.startswith(upto):
                return len(upto)
        rest = self._around_marker(self._messages, index)[1]
        if not self.whole.endswith(rest):
            raise self._unclear(index)
        return len(self.whole) - len(rest) + len(self._turn_end(index, rest))

    def _rendered_or_empty(self, messages: list[Message]) -> str:
        try:
            return self._render(messages, thinking=self._thinking)
        except RowUnfitError:  # a part of a conversation that is valid as a whole
            return ""

    def _turn_end(self, index: int, rest: str) -> str:
        try:
            alone = self._around_marker(self._messages[: index + 1], index)[1]
        except RowUnfitError:
            alone = ""
        if alone and rest.startswith(alone):
            return alone
        if first := self._first_token(rest):
            return first
        raise self._unclear(index)

    def _around_marker(self, messages: list[Message], index: int) -> tuple[str, str]:
        marked: Message = {"role": "assistant", "content": _MARKER}
        replaced = [*messages[:index], marked, *messages[index + 1 :]]
        before, marker, after = self._render(replaced, thinking=self._thinking).partition(_MARKER)
        if not marker:
            raise self._unclear(index)
        return before, after

    def _unclear(self, index: int) -> RowUnfitError:
        return RowUnfitError(
            f"message {index}: the chat template of the base model rewrites the conversation around it, so the "
            "assistant's tokens cannot be identified"
        )


def _forms(text: str) -> tuple[str, ...]:
    """A text as templates write it: as it is, or as JSON."""
    return text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]


def _probed(message: Message, index: int) -> Message:
    """The message with other names and arguments in its tool calls."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for number, call in enumerate(message["tool_calls"]):
        value = _VALUE.format(index, number)
        arguments = {value: value} if isinstance(call["function"]["arguments"], dict) else value
        calls.append({**call, "function": {"name": _CALL.format(index, number), "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _without_thinking(message: Message) -> Message:
    """A message as templates render it in an earlier turn: gpt-oss drops the text before a tool call."""
    kept = {key: value for key, value in message.items() if key in ("role", "content", "tool_calls")}
    return {**kept, "content": ""} if message.get("tool_calls") else kept
