"""The cells of a row of the chat format: its messages, and what its further columns give the chat template.

OpenAI's format, and what is common beside it: https://platform.openai.com/docs/api-reference/fine-tuning/chat-input
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from finetune_trainer.language.rows import RowUnfitError

Message = dict[str, Any]
TOOLS: Final = "tools"
FUNCTIONS: Final = "functions"
DOCUMENTS: Final = "documents"
VARIABLES: Final = "chat_template_kwargs"
OPTIONAL: Final = (TOOLS, FUNCTIONS, DOCUMENTS, VARIABLES)
"""The columns, beside the messages, that reach the chat template."""
UNREAD: Final = (
    *("parallel_tool_calls", "tool_choice", "response_format", "system", "images", "videos", "audios", "objects"),
    *("weight", "loss_mask", "rejected", "rejected_response", "history"),
)
"""Columns of chat formats that have no effect here."""
WEIGHT: Final = "weight"
MARKS: Final = (WEIGHT, "train", "training", "trainable", "loss", "loss_mask", "learn")
"""Members of a message that say whether it is trained on: OpenAI's and Mistral's, then those of other programs."""
OWN_VARIABLES: Final = frozenset(
    {"messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", TOOLS, DOCUMENTS, "padding"}
    | {"truncation", "max_length", "return_tensors", "return_dict", "continue_final_message", "tokenizer_kwargs"}
    | {"return_assistant_tokens_mask"}
)
"""What the trainer decides, and no row."""
THINKING_END: Final = "</think>"


def conversation(cell: Any) -> list[Message]:
    """The messages of a cell: role, content (text), and whatever else they have. Raises RowUnfitError.

    In a parquet table every message has every key: empty ones are dropped. Content in parts is joined if all parts are
    text. The arguments of a tool call, a JSON string in OpenAI's format, become an object, which templates expect. A
    mark that a message is not trained on becomes the weight 0.
    """
    if not isinstance(cell, list) or not cell:
        raise RowUnfitError("is not a list of messages")
    try:
        return [_message(entry, index) for index, entry in enumerate(cell)]
    except RecursionError:
        raise RowUnfitError("is nested too deeply") from None


def template_options(cells: Mapping[str, Any]) -> dict[str, Any]:
    """What the further columns of a row give its chat template. cells: of the columns in OPTIONAL.

    Raises RowUnfitError.
    """
    options: dict[str, Any] = {}
    variables = _without_none(cells.get(VARIABLES) or {})
    if not isinstance(variables, dict):
        raise RowUnfitError(f"{VARIABLES} is not an object")
    if own := sorted(OWN_VARIABLES & variables.keys()):
        raise RowUnfitError(f"{VARIABLES} has {', '.join(own)}, which the trainer sets: remove it")
    options |= variables
    tools = _objects(cells, TOOLS)
    if not tools:
        tools = [{"type": "function", "function": each} for each in _objects(cells, FUNCTIONS)]
    if tools:
        options[TOOLS] = tools
    if documents := _objects(cells, DOCUMENTS):
        options[DOCUMENTS] = documents
    return options


def answer_of(content: str) -> str:
    """The content of an assistant's message after its thinking, without white space around it."""
    return content.rpartition(THINKING_END)[2].strip()


def _objects(cells: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
    """The objects of a column; each may be JSON in a text, as tables without a schema for them have it."""
    cell = cells.get(column)
    if cell is None:
        return []
    if not isinstance(cell, list):
        raise RowUnfitError(f"{column} is not a list")
    return [_object(each, column) for each in _without_none(cell)]


def _object(value: Any, column: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowUnfitError(f"{column} contains a text that is not JSON") from None
    if not isinstance(value, dict):
        raise RowUnfitError(f"{column} contains a value of type {type(value).__name__} instead of an object")
    return value


def _message(entry: Any, index: int) -> Message:
    if not isinstance(entry, dict):
        raise RowUnfitError(f"message {index} is not an object with role and content")
    message = _without_none(entry)
    if not isinstance(message.get("role"), str):
        way_out = ": its members are from and value, and must be role and content" if "from" in message else ""
        raise RowUnfitError(f"message {index} has no role{way_out}")
    _take_weight(message, index)
    _require_own(message, index)
    message["content"] = _text(message.get("content", ""), index)
    _rename_functions(message)
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


def _take_weight(message: Message, index: int) -> None:
    """Replace every mark that a message is or is not trained on by its weight, 0 or 1."""
    weights = {mark: message.pop(mark) for mark in MARKS if mark in message}
    for mark, weight in weights.items():
        if not isinstance(weight, (bool, int, float)) or weight not in (0, 1):
            raise RowUnfitError(f"message {index} has the {mark} {weight!r}: write 0 or 1")
        if weight and message["role"] != "assistant":
            raise RowUnfitError(
                f"message {index} of the role {message['role']!r} has the {mark} {weight!r}, but only messages of the "
                "assistant are trained on"
            )
    if len({bool(weight) for weight in weights.values()}) > 1:
        raise RowUnfitError(f"message {index} has marks that contradict each other: {', '.join(weights)}")
    if weights and message["role"] == "assistant":
        message[WEIGHT] = int(next(iter(weights.values())))


def _require_own(message: Message, index: int) -> None:
    for column in (TOOLS, FUNCTIONS, DOCUMENTS):
        if message.get(column):
            raise RowUnfitError(f"message {index} has {column}: put them into the column {column!r} of the row")


def _rename_functions(message: Message) -> None:
    """The names that tools had in OpenAI's format until 2023."""
    call = message.pop("function_call", None)
    if call and not message.get("tool_calls"):
        message["tool_calls"] = [{"type": "function", "function": call}]
    if message["role"] == "function":
        message["role"] = "tool"


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
    """Without members that are null, or NaN, which pandas writes for them."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if not _is_nothing(item)}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
