"""The Hugging Face hub, by its own client: repositories by URI, and its errors as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from finetune_trainer.errors import ConfigError, RunError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME: Final = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}$")


@dataclass(frozen=True)
class Repository:
    """hf://datasets/org/name[@revision][/path], or hf://[models/]org/name[@revision][/path]. `kind`: with its s."""

    kind: str
    id: str
    revision: str
    path: str

    @classmethod
    def of(cls, uri: str, kind: str) -> Repository:
        """`kind`: what the URI may name, "datasets" or "models". Raises ConfigError for anything else."""
        parts = uri.removeprefix("hf://").strip("/").split("/")
        if parts[0] in ("datasets", "models", "spaces"):
            if parts[0] != kind:
                raise ConfigError(f"{uri} names none of the hub's {kind}")
            parts = parts[1:]
        elif kind == "datasets":
            raise ConfigError(f"{uri}: write hf://datasets/organisation/name[/path]")
        name, _, revision = (parts[1] if len(parts) > 1 else "").partition("@")
        if not parts or not _NAME.match(parts[0]) or not _NAME.match(name):
            raise ConfigError(f"{uri}: write hf://…organisation/name[@revision][/path]")
        return cls(kind, f"{parts[0]}/{name}", unquote(revision) or "main", "/".join(parts[2:]))

    def __str__(self) -> str:
        return "hf://" + "/".join(filter(None, ["datasets" if self.kind == "datasets" else "", self.id, self.path]))


def client(secret: Mapping[str, str]) -> HfApi:
    """With the Secret's HF_TOKEN, at its HF_ENDPOINT (a mirror), else as the environment says."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=secret.get("HF_ENDPOINT", "").rstrip("/") or None, token=secret.get("HF_TOKEN") or None)


class NotThere(Exception):
    """There is no such repository, revision or file, or no permission to see it; the text says which."""


@contextmanager
def answers(title: str, reason: str, refused: str) -> Iterator[None]:
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
