"""The cell of a messages column as a list of messages for chat templates."""

import json
from typing import Any

from finetune_trainer.language.rows import RowUnfitError

Message = dict[str, Any]


def conversation(cell: Any) -> list[Message]:
    """The messages of a cell: role, content (text), and whatever else they have. Raises RowUnfitError.

    In a parquet table every message has every key: empty ones are dropped. Content in parts is joined if all parts are
    text. The arguments of a tool call, a JSON string in OpenAI's format, become an object, which templates expect.
    """
    if not isinstance(cell, list) or not cell:
        raise RowUnfitError("is not a list of messages")
    try:
        return [_message(entry, index) for index, entry in enumerate(cell)]
    except RecursionError:
        raise RowUnfitError("is nested too deeply") from None


def _message(entry: Any, index: int) -> Message:
    if not isinstance(entry, dict):
        raise RowUnfitError(f"message {index} is not an object with role and content")
    message = _without_none(entry)
    if not isinstance(message.get("role"), str):
        raise RowUnfitError(f"message {index} has no role")
    message["content"] = _text(message.get("content", ""), index)
    if message["role"] == "assistant" and not message["content"].strip() and not message.get("tool_calls"):
        raise RowUnfitError(f"message {index} of the assistant is empty")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowUnfitError(f"message {index} has tool_calls that are not a list")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowUnfitError(f"message {index} has a tool call without function and name")
        function["arguments"] = _arguments(function.get("arguments", {}))
    return message


def _text(content: Any, index: int) -> str:
    if isinstance(content, list):
        parts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise RowUnfitError(f"message {index} has content other than text")
        content = "".join(parts)
    if not isinstance(content, str):
        raise RowUnfitError(f"message {index} has content of type {type(content).__name__} instead of text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise RowUnfitError(f"message {index} is not valid Unicode text") from None
    return content


def _arguments(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, dict) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
