"""What Black Forest Labs' answers mean: `ResultResponse`, `MyFinetunesResponse`, a create's, which is open. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Ambiguous
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import PollResult
from finetune_operator.backends.providers.json_values import identifier, items, new_identifier, number, rows
from finetune_operator.backends.run_state import RunState, Stage

ERRORS_TO_FAIL: Final = 3
"""A run that is just beginning may say Error for a moment: only so many in a row are a failure."""
UNSEEN_POLLS: Final = 20
"""So many polls may find nothing of a run that was never seen: it may merely not be visible yet."""


def finetune_id(body: object) -> str:
    """The id in the answer to a create, whose shape the document leaves open: a member, or the whole answer.

    Raises Ambiguous where there is none: it may be running.
    """
    fields = [body.get("finetune_id"), body.get("id")] if isinstance(body, Mapping) else [body]
    for known in map(new_identifier, fields):
        if known is not None:
            return known
    raise Ambiguous(
        "Black Forest Labs has taken the request and names no finetune_id", reason=Reason.UPSTREAM_ANSWER_UNREADABLE
    )


def listed_ids(body: Mapping[str, Any]) -> list[str]:
    """The ids of `my_finetunes`, whose items the document does not type: texts, or objects with an id.

    Raises Transient where there is no such list.
    """
    rows(body, "finetunes")
    found = []
    for item in items(body.get("finetunes")):
        known = (item.get("finetune_id") or item.get("id")) if isinstance(item, dict) else item
        if (made := identifier(known)) is not None:
            found.append(made)
    return found


def poll_result_of(body: Mapping[str, Any], data: Mapping[str, str]) -> PollResult:
    """What a `ResultResponse` says, given what was remembered. `Task not found` is not for this function."""
    word = str(body.get("status"))
    before = int(data.get("errors") or 0)
    errors = before + 1 if word == "Error" else 0
    learnt = {} if data.get("seen") else {"seen": "true"}
    if errors != before:
        learnt["errors"] = str(errors)
    return PollResult(
        state=_state(word, body, errors), stage=plain(word)[:64], message=_words(body) or None, data=learnt
    )


def poll_result_of_unknown(details: bool, data: Mapping[str, str]) -> PollResult | None:
    """`get_result` says Task not found: the result of a run that was seen has expired; another is not visible yet.

    `details`: whether `finetune_details` knows it. None: it is gone.
    """
    unseen = 0 if data.get("seen") else int(data.get("unseen") or 0) + 1
    if 0 < unseen <= UNSEEN_POLLS:
        message = "Black Forest Labs does not show the new run yet."
        state = RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message=message)
        return PollResult(state=state, stage="Task not found", data={"unseen": str(unseen)})
    return poll_result_of({"status": "Ready"}, data) if details else None


def _state(word: str, body: Mapping[str, Any], errors: int) -> RunState:
    share = _share(body.get("progress"))
    if word == "Ready":
        return RunState(
            stage=Stage.SUCCEEDED,
            reason=Reason.UPSTREAM_SUCCEEDED,
            message="Black Forest Labs says Ready. It gives no weights: the model is used there, by its id.",
            progress={"percentage": 100},
        )
    if word in ("Request Moderated", "Content Moderated"):
        return _failed(f"Black Forest Labs refuses the training data: {word}", body)
    if word == "Error" and errors >= ERRORS_TO_FAIL:
        return _failed(f"Black Forest Labs has answered Error {errors} times in a row", body)
    if word == "Error":
        return RunState(
            stage=Stage.PENDING,
            reason=Reason.UPSTREAM_QUEUED,
            message=f"Black Forest Labs answers Error ({errors} of {ERRORS_TO_FAIL}); a run that begins may do so.",
            troubled=True,
        )
    if word == "Pending" and not share:
        return RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message="Black Forest Labs says Pending.")
    known = word in ("Pending", "Reasoning", "Generating")
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.UPSTREAM_RUNNING if known else Reason.UPSTREAM_STATE_UNKNOWN,
        message="Black Forest Labs is training."
        if known
        else f"Black Forest Labs says {plain(word)!r:.80}, which the operator does not know; it goes on asking.",
        uncertain=not known,
        progress={"percentage": min(99, int(share * 100))} if share else None,
    )


def _failed(sentence: str, body: Mapping[str, Any]) -> RunState:
    words = _words(body)
    if not words and (details := body.get("details")):
        words = plain(orjson.dumps(details).decode())
    return RunState(
        stage=Stage.FAILED, reason=Reason.UPSTREAM_FAILED, message=f"{sentence}: {words}" if words else f"{sentence}."
    )


def _share(progress: object) -> float:
    """0 to 1, from a share or a percentage."""
    share = max(0.0, number(progress) or 0.0)
    return min(1.0, share / 100 if share > 1 else share)


def _words(body: Mapping[str, Any]) -> str:
    """Whatever `details` or `result` say of an error."""
    for part in (body.get("details"), body.get("result")):
        if isinstance(part, str):
            return plain(part)
        if isinstance(part, dict):
            for field in ("error", "message", "detail", "reason"):
                if isinstance(part.get(field), str):
                    return plain(part[field])
    return ""
