"""A conversation as tokens and labels, with the checkpoint's own tokenizer and chat template.

The conversation is rendered once, as a whole. What the model itself writes in an assistant's turn is trained on: from
the end of the generation prompt to the end of the turn, with tool calls and the end token; everything else is context,
also turns whose weight is 0. `turns.py` finds the turns.

Each span is tokenized separately, as a server does: the prompt first, then what the model adds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import torch

from finetune_trainer.errors import ConfigError
from finetune_trainer.language.messages import DOCUMENTS, TOOLS, Message
from finetune_trainer.language.rows import THINKING_NOTE, Fit, RowTooLongError, RowUnfitError
from finetune_trainer.language.turns import Span, Turns
from finetune_trainer.training.packing import IGNORED

DATE: Final = datetime(2024, 7, 26)
"""Date for templates that render today's date: a resumed run must have the same tokens. Llama 3's own default."""
_TODAY: Final = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
THINKING: Final = "enable_thinking"
NO_OPTIONS: Final[Mapping[str, Any]] = {}
TOOLS_NOTE: Final = "the chat template was given the tools of {} rows"
CALLS_NOTE: Final = "{} rows have tool calls, but no tools: the model learns to call tools that it was not told of"
THOUGHTS_NOTE: Final = "the chat template leaves out the thinking before the last answer in {} rows"


class ChatEncoder:
    """Encodes conversations with a tokenizer and its chat template. seq_length: tokens of a row, at most.

    options: of the methods, are what a row gives the template beside its messages: tools, documents, variables.
    """

    def __init__(self, tokenizer: Any, seq_length: int, *, enable_thinking: bool) -> None:
        if not tokenizer.chat_template:
            raise ConfigError("the base model has no chat template: use a chat (instruct) model")
        template = tokenizer.get_chat_template()
        self._template = _TODAY.sub(lambda call: json.dumps(DATE.strftime(call[2])), template)
        self._dated = self._template != template
        self._tokenizer, self._seq_length, self.enable_thinking = tokenizer, seq_length, enable_thinking
        self._seen: Counter[str] = Counter()

    def notes(self) -> list[str]:
        """What the user should know about the template, and about the rows that `fit` has seen."""
        notes = [THINKING_NOTE] if self.enable_thinking and not self._thinking_matters() else []
        if self._dated:
            notes.append(
                f"the chat template renders the date: it is {DATE:%d %b %Y} in every row, so that runs are reproducible"
            )
        return [*notes, *(text.format(count) for text, count in self._seen.items())]

    def fit(self, messages: list[Message], options: Mapping[str, Any] = NO_OPTIONS) -> Fit:
        """The row's length in tokens. Raises RowTooLongError or RowUnfitError."""
        turns = self._turns(messages, options)
        tokens = sum(len(self._tokens(span.text)) for span in turns.spans())
        if tokens > self._seq_length:
            raise RowTooLongError(f"has {tokens} tokens; seqLength is {self._seq_length}")
        calls = any(message.get("tool_calls") for message in messages)
        self._seen[TOOLS_NOTE] += bool(options.get(TOOLS))
        self._seen[CALLS_NOTE] += calls and not options.get(TOOLS)
        self._seen[THOUGHTS_NOTE] += turns.lost_thoughts()
        self._seen += Counter()  # keeps what was seen at all
        return Fit(tokens)

    def encode(
        self, messages: list[Message], options: Mapping[str, Any] = NO_OPTIONS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`input_ids` and labels of a conversation: (length,), int64. Raises RowUnfitError."""
        spans = self.spans(messages, options)
        parts = [torch.tensor(self._tokens(span.text), dtype=torch.int64) for span in spans]
        labels = [
            part if span.trained else torch.full_like(part, IGNORED) for span, part in zip(spans, parts, strict=True)
        ]
        return torch.cat(parts), torch.cat(labels)

    def spans(self, messages: list[Message], options: Mapping[str, Any] = NO_OPTIONS) -> list[Span]:
        """The rendered conversation, in spans. Raises RowUnfitError."""
        return self._turns(messages, options).spans()

    def _turns(self, messages: list[Message], options: Mapping[str, Any]) -> Turns:
        variables = dict(options)
        thinking = bool(variables.pop(THINKING, self.enable_thinking))

        def render(part: list[Message], *, thinking: bool = thinking, **more: bool) -> str:
            return self._render(part, **{**variables, **more, THINKING: thinking})

        turns = Turns(messages, render, self._first_token, thinking=thinking)
        for name in (TOOLS, DOCUMENTS):
            if variables.get(name):
                self._require_option(name, messages, {**variables, THINKING: thinking}, turns.whole)
        return turns

    def _require_option(self, name: str, messages: list[Message], options: Mapping[str, Any], whole: str) -> None:
        try:
            without = self._render(messages, **{**options, name: None})
        except RowUnfitError:
            return
        if without == whole:
            raise RowUnfitError(f"the chat template of the base model leaves out the {name} of the row")

    def _thinking_matters(self) -> bool:
        question: list[Message] = [{"role": "user", "content": "x"}]
        try:
            heads = {self._render(question, add_generation_prompt=True, enable_thinking=on) for on in (True, False)}
        except RowUnfitError:  # the template needs more than a question; the rows will tell
            return True
        return len(heads) > 1

    def _render(self, messages: list[Message], **options: Any) -> str:
        options = {THINKING: self.enable_thinking, **options}
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False, **options)
            )
        except Exception as error:  # templates raise any exception, deliberately or not
            raise RowUnfitError(f"the chat template rejects the conversation: {str(error)[:200]}") from error

    def _first_token(self, text: str) -> str:
        """The special token that a text begins with; empty if there is none."""
        first = str(self._tokenizer.convert_ids_to_tokens(self._tokens(text)[0])) if text else ""
        return first if first in self._tokenizer.get_added_vocab() and text.startswith(first) else ""

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
