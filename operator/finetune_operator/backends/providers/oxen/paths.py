"""Oxen's addresses for a run, and what carries the run's marker. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.marker import bears
from finetune_operator.backends.providers.oxen import responses

BRANCH: Final = "main"


def backend_of(run: UpstreamRun) -> Oxen:
    """The run's backend member."""
    assert isinstance(run.backend, Oxen)
    return run.backend


def repository_path(backend: Oxen) -> str:
    """The repository's address below the base URL."""
    return f"/api/repos/{quote(backend.namespace, safe='')}/{quote(backend.repository, safe='')}"


def fine_tunes_path(run: UpstreamRun) -> str:
    """The address of the repository's fine-tunes."""
    return f"{repository_path(backend_of(run))}/fine_tunes"


def fine_tune_path(run: UpstreamRun, known: str | None = None) -> str:
    """The address of the run's fine-tune, or of another one."""
    return f"{fine_tunes_path(run)}/{quote(known or run.id or '', safe='')}"


def folder_of(run: UpstreamRun) -> str:
    """Where the run's dataset is uploaded to: a path that no other run has, which Oxen echoes."""
    return f"finetunes/{run.marker}"


def bears_marker(found: Mapping[str, Any], run: UpstreamRun) -> bool:
    """Whether a fine-tune from a list, or in full, is this run's."""
    path = responses.resource_path(found.get("resource"))
    return f"{folder_of(run)}/" in f"{path}/" or bears(found.get("description"), run.marker)


def shows_no_marker(found: Mapping[str, Any]) -> bool:
    """A list's items may lack what carries the marker: then the fine-tune itself must be asked."""
    return not responses.resource_path(found.get("resource")) and not found.get("description")
