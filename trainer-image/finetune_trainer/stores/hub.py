"""The Hugging Face hub, by its own client: repositories by URI, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune_operator.api.hub import Repository
from finetune_trainer.errors import AnyReason, ConfigError, RunError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def repository_of(uri: str, kind: str) -> Repository:
    """`kind`: what the URI may name, "datasets" or "models". Raises ConfigError for anything else."""
    try:
        return Repository.of(uri, kind)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def client(secret: Mapping[str, str]) -> HfApi:
    """With the Secret's HF_TOKEN, at its HF_ENDPOINT (a mirror), else as the environment says."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=secret.get("HF_ENDPOINT", "").rstrip("/") or None, token=secret.get("HF_TOKEN") or None)


class NotThere(Exception):
    """There is no such repository, revision or file, or no permission to see it; the text says which."""


@contextmanager
def answers(title: str, reason: AnyReason, refused: AnyReason) -> Iterator[None]:
    """NotThere; ConfigError(refused) where a retry gives the same; else RunError(reason). `title`: "the dataset x"."""
    import httpx2  # the client's own
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _unwrapped():
            yield
    except GatedRepoError:
        raise ConfigError(f"{title} is gated: accept its licence and give a Secret with HF_TOKEN", refused) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(f"{title} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it") from None
        raise RunError(f"{title} could not be fetched: {type(error).__name__}", reason) from None
    except RevisionNotFoundError:
        raise NotThere(f"{title} has no such revision") from None
    except EntryNotFoundError:
        raise NotThere(f"{title} has no such file or folder") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise NotThere(f"there is no {title.removeprefix('the ')} on the hub (or no permission to see it)") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise ConfigError(f"{title}: the hub refuses the credentials ({status})", refused) from None
        raise RunError(f"{title}: the hub answers {status or type(error).__name__}", reason) from None
    except (httpx2.HTTPError, OSError) as error:
        raise RunError(f"{title}: the hub cannot be reached: {type(error).__name__}", reason) from None
    except RuntimeError as error:
        raise RunError(f"{title}: {error}", reason) from None


@contextmanager
def _unwrapped() -> Iterator[None]:
    """The client hides what went wrong with a large file behind a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise error.__cause__ or error from None
