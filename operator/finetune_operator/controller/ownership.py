"""Whose a child is, and what a run may have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_operator.api.names import API_VERSION, KIND, MANAGED_BY, MANAGED_BY_LABEL, RUN_LABEL, named_run
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Phase
from finetune_operator.controller.model import FineTune


def is_ours(child: dict[str, Any], finetune: FineTune) -> bool:
    """Its controller is this very object, by uid."""
    controller = controller_of(child)
    return controller is not None and controller.get("uid") == finetune.uid


def is_predecessors(child: dict[str, Any], finetune: FineTune) -> bool:
    """Its controller was a FineTune of the same name that no longer exists: the garbage collector will take it."""
    controller = controller_of(child)
    return (
        controller is not None
        and controller.get("kind") == KIND
        and controller.get("apiVersion") == API_VERSION
        and controller.get("name") == finetune.name
        and controller.get("uid") != finetune.uid
    )


def is_watched(job: dict[str, Any]) -> bool:
    """Whether the watch of Jobs shows it: somebody may have taken our label off, and keep it off."""
    return bool((job["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY)


def controller_of(child: dict[str, Any]) -> dict[str, Any] | None:
    """The owner reference that answers for it."""
    for reference in child["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return reference  # type: ignore[no-any-return]
    return None


def run_number(job: dict[str, Any], finetune: str) -> int:
    """The run of the FineTune of that name which a Job is for, by its own name, which nobody can change; 0: none."""
    name, run = named_run(job["metadata"]["name"]) or ("", 0)
    return run if name == finetune else 0


def runs_at_work(pods: Sequence[Object], finetune: FineTune) -> set[int]:
    """The runs of these pods that have not ended."""
    labels = [
        str((pod["metadata"].get("labels") or {}).get(RUN_LABEL, ""))
        for pod in pods
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]
    return {int(label) if label.isdecimal() else finetune.run for label in labels}


def may_have_left_pods(finetune: FineTune, status: Mapping[str, Any], other_jobs: Sequence[Object]) -> bool:
    """Whether pods of another run may be at work: not where the last one is known to have ended by itself.

    Somebody may have deleted its Job and not waited for its pods. Nobody needs to look where nothing can be.
    """
    if not other_jobs and finetune.run == 1:
        return False
    history = status.get("history") or ()
    last = status if status.get("run") not in (None, finetune.run) else next(iter(history), {})
    over = last.get("phase") in (Phase.SUCCEEDED, Phase.FAILED)
    newer = any(run_number(job, finetune.name) > int(last.get("run") or 0) for job in other_jobs)
    return newer or not over
