"""The Hugging Face Hub, through its own client: repositories by URI, and its errors as the trainer's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from finetune_operator.api.hub import Repository
from finetune_trainer.errors import AnyReason, ConfigError, RunError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def repository_of(uri: str, kind: str) -> Repository:
    """The repository of an hf:// URI. kind: "datasets" or "models". Raises ConfigError for any other URI."""
    try:
        return Repository.of(uri, kind)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def client(secret: Mapping[str, str]) -> HfApi:
    """A client with HF_TOKEN and HF_ENDPOINT (a mirror) of the Secret, or of the environment."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=secret.get("HF_ENDPOINT", "").rstrip("/") or None, token=secret.get("HF_TOKEN") or None)


class NotFound(Exception):
    """The repository, revision or file does not exist or must not be read; the message says which."""


@contextmanager
def translated_errors(title: str, reason: AnyReason, refused: AnyReason) -> Iterator[None]:
    """Raise the client's errors as the trainer's.

    title: what is accessed, as in "the dataset x". Raises NotFound; ConfigError(refused) where a retry would fail the
    same way; otherwise RunError(reason).
    """
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
        raise ConfigError(
            f"{title} is gated: accept its licence, and provide a Secret with HF_TOKEN", refused
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(f"{title} is not in the cache, and HF_HUB_OFFLINE is set") from None
        raise RunError(f"{title} could not be downloaded: {type(error).__name__}", reason) from None
    except RevisionNotFoundError:
        raise NotFound(f"{title} has no such revision") from None
    except EntryNotFoundError:
        raise NotFound(f"{title} has no such file or folder") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise NotFound(f"{title} does not exist on the Hub, or the token may not read it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise ConfigError(f"{title}: the Hub rejects the credentials ({status})", refused) from None
        raise RunError(f"{title}: the Hub responds with {status or type(error).__name__}", reason) from None
    except (httpx2.HTTPError, OSError) as error:
        raise RunError(f"{title}: the Hub cannot be reached: {type(error).__name__}", reason) from None
    except RuntimeError as error:
        raise RunError(f"{title}: {error}", reason) from None


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise the cause of the RuntimeErrors in which the client wraps failures of large files."""
    try:
        yield
    except RuntimeError as error:
        raise error.__cause__ or error from None
