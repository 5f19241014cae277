"""A conversation as tokens and labels, with the checkpoint's own tokenizer and chat template.

The conversation is rendered once, as a whole. What the model itself writes in an assistant's turn is trained on: from
the end of the generation prompt to the end of the turn, with tool calls and the end token; everything else is context.
Few templates mark those spans (`{% generation %}`), so they are found by rendering the conversation up to the turn, and
checking that the text is a prefix of the whole. For templates that render an earlier turn differently from the last one
(Qwen3 drops its thinking, gpt-oss ends it with another token), the conversation is rendered again with a marker for the
turn, and the text after the marker must be the end of the whole. A template for which neither holds is rejected.

Each span is tokenized separately, as a server does: the prompt first, then what the model adds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import torch

from finetune_trainer.errors import ConfigError
from finetune_trainer.language.messages import Message
from finetune_trainer.language.rows import THINKING_NOTE, Fit, RowTooLongError, RowUnfitError
from finetune_trainer.training.packing import IGNORED

DATE: Final = datetime(2024, 7, 26)
"""Date for templates that render today's date: a resumed run must have the same tokens. Llama 3's own default."""
_TODAY: Final = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_MARKER: Final = "finetune-answer-mark"


@dataclass(frozen=True)
class Span:
    """A part of the rendered conversation, and whether it is trained on."""

    text: str
    trained: bool


class ChatEncoder:
    """Encodes conversations with a tokenizer and its chat template. seq_length: tokens of a row, at most."""

    def __init__(self, tokenizer: Any, seq_length: int, *, enable_thinking: bool) -> None:
        if not tokenizer.chat_template:
            raise ConfigError("the base model has no chat template: use a chat (instruct) model")
        template = tokenizer.get_chat_template()
        self._template = _TODAY.sub(lambda call: json.dumps(DATE.strftime(call[2])), template)
        self._dated = self._template != template
        self._tokenizer, self._seq_length, self.enable_thinking = tokenizer, seq_length, enable_thinking

    def notes(self) -> list[str]:
        """What the user should know about the template."""
        notes = [THINKING_NOTE] if self.enable_thinking and not self._thinking_matters() else []
        if self._dated:
            notes.append(
                f"the chat template renders the date: it is {DATE:%d %b %Y} in every row, so that runs are reproducible"
            )
        return notes

    def fit(self, messages: list[Message]) -> Fit:
        """The row's length in tokens. Raises RowTooLongError or RowUnfitError."""
        tokens = sum(len(self._tokens(span.text)) for span in self.spans(messages))
        if tokens > self._seq_length:
            raise RowTooLongError(f"has {tokens} tokens; seqLength is {self._seq_length}")
        return Fit(tokens)

    def encode(self, messages: list[Message]) -> tuple[torch.Tensor, torch.Tensor]:
        """`input_ids` and labels of a conversation: (length,), int64. Raises RowUnfitError."""
        spans = self.spans(messages)
        parts = [torch.tensor(self._tokens(span.text), dtype=torch.int64) for span in spans]
        labels = [
            part if span.trained else torch.full_like(part, IGNORED) for span, part in zip(spans, parts, strict=True)
        ]
        return torch.cat(parts), torch.cat(labels)

    def spans(self, messages: list[Message]) -> list[Span]:
        """The rendered conversation, in spans. Raises RowUnfitError."""
        whole = self._render(messages)
        self._require_context(messages, whole)
        spans, done = [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = self._start(messages, index, whole)
            end = self._end(messages, index, whole)
            if not done <= start < end:
                raise RowUnfitError(f"message {index}: the chat template does not render it, or renders it elsewhere")
            spans += [Span(whole[done:start], False), Span(whole[start:end], True)]
            done = end
        if not spans:
            raise RowUnfitError("has no assistant message")
        return [span for span in [*spans, Span(whole[done:], False)] if span.text]

    def _thinking_matters(self) -> bool:
        question: list[Message] = [{"role": "user", "content": "x"}]
        try:
            return self._head(question, True) != self._head(question, False)
        except RowUnfitError:  # the template needs more than a question; the rows will tell
            return True

    def _require_context(self, messages: list[Message], whole: str) -> None:
        for index, message in enumerate(messages):
            role = message["role"]
            if role not in ("assistant", "tool") and message["content"].strip() not in whole:
                raise RowUnfitError(f"message {index}: the chat template drops the content of the role {role!r}")

    def _start(self, messages: list[Message], index: int, whole: str) -> int:
        # After the server's generation prompt. With thinking disabled that may end with an empty thinking block, which
        # earlier turns do not have, and turns with thinking fill.
        before = messages[:index]
        for history in (before, [_without_thinking(message) for message in before]):
            for thinking in (self.enable_thinking, not self.enable_thinking):
                head = self._head(history, thinking)
                if whole.startswith(head):
                    return len(head)
        head = self._around_marker(messages, index)[0]
        if whole.startswith(head):
            return len(head)
        raise self._unclear(index)

    def _end(self, messages: list[Message], index: int, whole: str) -> int:
        for turn in (messages[index], _without_thinking(messages[index])):
            upto = self._render([*messages[:index], turn])
            if whole.startswith(upto):
                return len(upto)
        rest = self._around_marker(messages, index)[1]
        if not whole.endswith(rest):
            raise self._unclear(index)
        return len(whole) - len(rest) + len(self._turn_end(messages, index, rest))

    def _turn_end(self, messages: list[Message], index: int, rest: str) -> str:
        alone = self._around_marker(messages[: index + 1], index)[1]
        if rest.startswith(alone):
            return alone
        first = str(self._tokenizer.convert_ids_to_tokens(self._tokens(rest)[0])) if rest else ""
        if first in self._tokenizer.get_added_vocab() and rest.startswith(first):
            return first
        raise self._unclear(index)

    def _around_marker(self, messages: list[Message], index: int) -> tuple[str, str]:
        marked: Message = {"role": "assistant", "content": _MARKER}
        before, marker, after = self._render([*messages[:index], marked, *messages[index + 1 :]]).partition(_MARKER)
        if not marker:
            raise self._unclear(index)
        return before, after

    def _unclear(self, index: int) -> RowUnfitError:
        return RowUnfitError(
            f"message {index}: the chat template of the base model rewrites the conversation around it, so the "
            "assistant's tokens cannot be identified"
        )

    def _head(self, messages: list[Message], thinking: bool) -> str:
        return self._render(messages, add_generation_prompt=True, enable_thinking=thinking)

    def _render(self, messages: list[Message], **options: bool) -> str:
        options = {"tokenize": False, "enable_thinking": self.enable_thinking, **options}
        try:
            return str(self._tokenizer.apply_chat_template(messages, chat_template=self._template, **options))
        except Exception as error:  # templates raise any exception, deliberately or not
            raise RowUnfitError(f"the chat template rejects the conversation: {str(error)[:200]}") from error

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _without_thinking(message: Message) -> Message:
    """A message as templates render it in an earlier turn: gpt-oss drops the text before a tool call."""
    kept = {key: value for key, value in message.items() if key in ("role", "content", "tool_calls")}
    return {**kept, "content": ""} if message.get("tool_calls") else kept
