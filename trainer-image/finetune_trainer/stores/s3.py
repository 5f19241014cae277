"""S3 and what speaks its protocol, by obstore. Paths name the bucket (path style): every compatible server takes it.

A Secret without keys means what the pod may read of itself (a service account's web identity, `job.env`), else what
is public; never the node's own metadata service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.api.sigv4 import Credentials
from finetune_trainer.errors import AnyReason, ConfigError, RunError

if TYPE_CHECKING:
    from obstore.store import S3Store

OWN_IDENTITY: Final = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
RETRIES: Final = 3
RETRY_WINDOW: Final = timedelta(seconds=60)
"""Short, because a pod that is asked to stop waits for the request in progress."""
MAX_SAID: Final = 300
ELSEWHERE: Final = ("x-amz-bucket-region", "PermanentRedirect", "AuthorizationHeaderMalformed")


@dataclass(frozen=True)
class Place:
    """s3://bucket/key; `key` without slashes at its ends."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> Place:
        """Raises ConfigError where the URI names no bucket."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket or "?" in bucket or "#" in bucket:
            raise ConfigError(f"{uri} names no bucket: write s3://bucket/key")
        return cls(bucket, key.strip("/"))

    def below(self, name: str) -> str:
        """The key of a name in this folder."""
        return f"{self.key}/{name}".strip("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def open_bucket(place: Place, secret: Mapping[str, str]) -> S3Store:
    """The store with the credentials of a Secret. Raises ConfigError for half of a key pair."""
    from obstore.store import S3Store

    config: Any = {"region": _region(secret)}
    endpoint = secret.get("AWS_ENDPOINT_URL", "").rstrip("/")
    if endpoint:
        config["endpoint"] = endpoint
    access, key = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
    if bool(access) != bool(key):
        raise ConfigError(
            "the Secret for s3:// needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both", Reason.SECRET_KEY_MISSING
        )
    if access:
        config |= {"access_key_id": access, "secret_access_key": key}
        if token := secret.get("AWS_SESSION_TOKEN"):
            config["session_token"] = token
    elif not any(os.environ.get(name) for name in OWN_IDENTITY):
        config["skip_signature"] = True
    options: Any = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(minutes=10),
    }
    if certificates := os.environ.get("SSL_CERT_FILE"):
        options["root_certificate"] = Path(certificates).read_bytes()
    retry: Any = {"max_retries": RETRIES, "retry_timeout": RETRY_WINDOW}
    return S3Store(place.bucket, config=config, client_options=options, retry_config=retry)


def signing(secret: Mapping[str, str]) -> tuple[str, Credentials] | None:
    """The endpoint and the keys that `open_bucket` uses, of the Secret, else of the environment; None without keys."""
    holder = secret if secret.get("AWS_ACCESS_KEY_ID") else os.environ
    access, key = holder.get("AWS_ACCESS_KEY_ID"), holder.get("AWS_SECRET_ACCESS_KEY")
    if not access or not key:
        return None
    region = _region(secret)
    endpoint = secret.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    address = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    return address, Credentials(access, key, holder.get("AWS_SESSION_TOKEN") or "", region)


def _region(secret: Mapping[str, str]) -> str:
    return secret.get("AWS_REGION") or os.environ.get("AWS_REGION") or "us-east-1"


class NotThere(Exception):
    """There is no such object."""


@contextmanager
def answers(place: Place, reason: AnyReason, refused: AnyReason) -> Iterator[None]:
    """Its errors as ours: NotThere; ConfigError(refused) where a retry gives the same; else RunError(reason)."""
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError) as error:
        _check_bucket(error, place, refused)
        raise NotThere(str(place)) from None
    except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ConfigError(f"{place}: the store refuses the credentials: {_said(error)}", refused) from None
    except (exceptions.InvalidPathError, exceptions.NotSupportedError, ValueError) as error:
        raise ConfigError(f"{place} cannot be used: {_said(error)}") from None
    except (exceptions.BaseError, OSError) as error:
        _check_bucket(error, place, refused)
        said = str(error)
        if any(sign in said for sign in ELSEWHERE):
            raise ConfigError(f"{place}: the bucket is in another region: set AWS_REGION in the Secret") from None
        raise RunError(f"{place}: the store does not answer well: {_said(error)}", reason) from None


def _check_bucket(error: BaseException, place: Place, refused: AnyReason) -> None:
    if "NoSuchBucket" in str(error):
        raise ConfigError(f"{place}: there is no bucket {place.bucket}", refused) from None


def _said(error: BaseException) -> str:
    """The store's own words: obstore's text goes on with pages of internals."""
    text = str(error)
    if found := re.search(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", text, re.DOTALL):
        return ": ".join(filter(None, found.groups()))[:MAX_SAID]
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition(" status code: ")[2].strip(": ")[:MAX_SAID]
