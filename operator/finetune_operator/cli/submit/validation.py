"""What keeps a FineTune from being sent, in one sentence, and the flags that put it right in the next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from finetune_operator.api.base import problem
from finetune_operator.api.findings import Finding
from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.output.table import recipe_of

BEGINNINGS: Final = (
    ("baseModel", "base model", "--model MODEL"),
    ("recipe", "recipe", "--recipe RECIPE"),
    ("dataset", "dataset", "--dataset URI"),
)
"""Members that every spec has, what to call them, and their flags."""
STORAGE: Final = "Give --storage SIZE (a claim is made), --storage-claim NAME, or --to URI."


def missing(finetune: Mapping[str, Any]) -> UsageError | None:
    """All that a beginner leaves out, at once; None where it is complete."""
    metadata, spec = finetune["metadata"], finetune["spec"]
    named = metadata.get("name") or metadata.get("generateName")
    lacks = [] if named else [("name", "--name NAME")]
    lacks += [(what, flag) for member, what, flag in BEGINNINGS if not spec.get(member)]
    if not lacks:
        return None
    flags = " ".join(flag for _, flag in lacks)
    return UsageError(
        f"the FineTune has no {', no '.join(what for what, _ in lacks)}",
        f"Give {flags}, or a file; `kubectl finetune submit --help` has an example.",
    )


def invalid(error: ValidationError, spec: Mapping[str, Any]) -> UsageError:
    """What the schema says; where parameters of the recipe are missing, the flags that give them."""
    # The input itself stays out: it may be long, and hostile.
    problems = error.errors(include_input=False, include_url=False)
    recipe = recipe_of(spec)
    absent = [str(each["loc"][-1]) for each in problems if each["type"] == "missing" and "recipe" in each["loc"]]
    explained = f"kubectl explain finetune.spec{f'.recipe.{recipe}' if absent and recipe else ''}"
    if absent and len(absent) == len(problems):
        flags = " ".join(f"-p {name}=…" for name in absent)
        return UsageError(f"recipe {recipe} needs {', '.join(absent)}", f"Give {flags}; all parameters: {explained}")
    return UsageError("; ".join(problem(each, "spec") for each in problems), f"Correct it; the fields: {explained}")


def unsupported(findings: Sequence[Finding]) -> UsageError:
    """What the backend cannot honour."""
    if [each.field for each in findings] == ["backend.job.storage"]:
        return UsageError("the result would be lost with the pod", STORAGE)
    return UsageError(
        "; ".join(str(each) for each in findings), "Leave it out, or choose a backend that can: --backend NAME."
    )
