"""S3 and compatible servers, through obstore. URLs are path-style, which every compatible server accepts.

Without keys in the Secret, requests are signed with the pod's own identity (a service account's web identity,
`job.env`), or not at all; the node's metadata service is never asked for credentials.
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
from finetune_operator.api.uri_paths import decoded_path, encoded_path
from finetune_trainer.errors import AnyReason, ConfigError, RunError

if TYPE_CHECKING:
    from obstore.store import S3Store

POD_IDENTITY: Final = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
RETRIES: Final = 3
RETRY_WINDOW: Final = timedelta(seconds=60)
"""Short, because a pod that is asked to stop waits for the request in flight."""
MAX_ERROR_TEXT: Final = 300
OTHER_REGION: Final = ("x-amz-bucket-region", "PermanentRedirect", "AuthorizationHeaderMalformed")


@dataclass(frozen=True)
class S3Location:
    """The location s3://bucket/key. key: without leading and trailing slashes."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> S3Location:
        """Parse a URI. Raises ConfigError if it has no bucket."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket or "?" in bucket or "#" in bucket:
            raise ConfigError(f"{uri} has no bucket: write s3://bucket/key")
        try:
            plain = decoded_path(key)
        except ValueError as error:
            raise ConfigError(f"{uri}: {error}") from None
        if "//" in f"/{plain}" or any(part in (".", "..") for part in plain.split("/")):
            raise ConfigError(f"{uri}: keys with empty parts, '.' or '..' between slashes cannot be read: rename them")
        return cls(bucket, plain.strip("/"))

    def below(self, name: str) -> str:
        """The key of a file below this location."""
        return f"{self.key}/{name}".strip("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{encoded_path(self.key)}"


def open_bucket(location: S3Location, secret: Mapping[str, str]) -> S3Store:
    """The bucket, with the credentials of a Secret. Raises ConfigError if one key of a pair is missing."""
    from obstore.store import S3Store

    config: Any = {"region": _region(secret)}
    endpoint = secret.get("AWS_ENDPOINT_URL", "").rstrip("/")
    if endpoint:
        config["endpoint"] = endpoint
    access, key = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
    if bool(access) != bool(key):
        raise ConfigError(
            "the Secret for s3:// needs both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", Reason.SECRET_KEY_MISSING
        )
    if access:
        config |= {"access_key_id": access, "secret_access_key": key}
        if token := secret.get("AWS_SESSION_TOKEN"):
            config["session_token"] = token
    elif not has_pod_identity():
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
    return S3Store(location.bucket, config=config, client_options=options, retry_config=retry)


def signing_keys(secret: Mapping[str, str]) -> tuple[str, Credentials] | None:
    """The endpoint and the keys that `open_bucket` uses, of the Secret or of the environment; None without keys."""
    holder = secret if secret.get("AWS_ACCESS_KEY_ID") else os.environ
    access, key = holder.get("AWS_ACCESS_KEY_ID"), holder.get("AWS_SECRET_ACCESS_KEY")
    if not access or not key:
        return None
    return endpoint_of(secret), Credentials(access, key, holder.get("AWS_SESSION_TOKEN") or "", _region(secret))


def endpoint_of(secret: Mapping[str, str]) -> str:
    """The address of the store."""
    endpoint = secret.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    return (endpoint or f"https://s3.{_region(secret)}.amazonaws.com").rstrip("/")


def has_pod_identity() -> bool:
    """Whether requests without keys are signed with the pod's own identity."""
    return any(os.environ.get(name) for name in POD_IDENTITY)


def _region(secret: Mapping[str, str]) -> str:
    return secret.get("AWS_REGION") or os.environ.get("AWS_REGION") or "us-east-1"


class NotFound(Exception):
    """The object does not exist."""


@contextmanager
def translated_errors(location: S3Location, reason: AnyReason, refused: AnyReason) -> Iterator[None]:
    """Raise obstore's errors as the trainer's.

    Raises NotFound; ConfigError(refused) where a retry would fail the same way; otherwise RunError(reason).
    """
    from obstore import exceptions

    try:
        yield
    except (FileNotFoundError, exceptions.NotFoundError) as error:
        _check_bucket(error, location, refused)
        raise NotFound(str(location)) from None
    except (PermissionError, exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ConfigError(f"{location}: the store rejects the credentials: {_error_text(error)}", refused) from None
    except (exceptions.InvalidPathError, exceptions.NotSupportedError, ValueError) as error:
        raise ConfigError(f"{location} cannot be used: {_error_text(error)}") from None
    except (exceptions.BaseError, OSError) as error:
        _check_bucket(error, location, refused)
        text = str(error)
        if any(sign in text for sign in OTHER_REGION):
            raise ConfigError(f"{location}: the bucket is in another region: set AWS_REGION in the Secret") from None
        raise RunError(f"{location}: the request to the store failed: {_error_text(error)}", reason) from None


def _check_bucket(error: BaseException, location: S3Location, refused: AnyReason) -> None:
    if "NoSuchBucket" in str(error):
        raise ConfigError(f"{location}: the bucket {location.bucket} does not exist", refused) from None


def _error_text(error: BaseException) -> str:
    """The store's own message: obstore appends pages of internals to it."""
    text = str(error)
    if found := re.search(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", text, re.DOTALL):
        return ": ".join(filter(None, found.groups()))[:MAX_ERROR_TEXT]
    line = (text.strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition(" status code: ")[2].strip(": ")[:MAX_ERROR_TEXT]
