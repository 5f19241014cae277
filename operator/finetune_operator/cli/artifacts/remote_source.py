"""Files in S3-compatible stores and on the Hugging Face hub, by urllib3, which the kubernetes package brings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from finetune_operator.api.sigv4 import Credentials, quoted, signed
from finetune_operator.cli.artifacts.records import Record
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError
from finetune_operator.kube.secrets import decoded

if TYPE_CHECKING:
    import urllib3

KEYS: Final[Mapping[str, Sequence[str]]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"),
    "hf": ("HF_TOKEN", "HF_ENDPOINT"),
}
HUB: Final = "https://huggingface.co"
CHUNK: Final = 1 << 20


def credentials(cluster: Cluster, finetune: Mapping[str, Any], scheme: str) -> dict[str, str]:
    """From this machine's environment where it has the first of the keys, else from the Secret of spec.output."""
    keys = KEYS[scheme]
    if os.environ.get(keys[0]):
        return {key: os.environ[key] for key in keys if os.environ.get(key)}
    name = ((finetune["spec"].get("output") or {}).get("secretRef") or {}).get("name")
    if not name:
        return {key: os.environ[key] for key in keys if os.environ.get(key)}
    try:
        secret = cluster.get(resources.core(finetune["metadata"]["namespace"], "secrets", name))
    except ApiError as error:
        raise CommandError(
            f"Secret {name} cannot be read: {error.message}", f"Set {keys[0]} and its fellows in your environment."
        ) from None
    found = decoded(secret.get("data") or {})
    return {key: found[key] for key in keys if found.get(key)}


class S3Source:
    """A `download.Source`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        region = keys.get("AWS_REGION") or "us-east-1"
        self._endpoint = (keys.get("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com").rstrip("/")
        access, secret = keys.get("AWS_ACCESS_KEY_ID"), keys.get("AWS_SECRET_ACCESS_KEY")
        token = keys.get("AWS_SESSION_TOKEN") or ""
        self._credentials = Credentials(access, secret, token, region) if access and secret else None

    def announce(self, records: Sequence[Record]) -> None:
        """Nothing to prepare."""

    def open(self, record: Record) -> Iterator[bytes]:
        """Raises CommandError for anything but a 200."""
        url = f"{self._endpoint}{quoted('/' + unquote(record.uri.removeprefix('s3://')), safe='/')}"
        headers = signed("GET", url, self._credentials, datetime.now(UTC)) if self._credentials else {}
        yield from _streamed(url, headers, record, "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")


class HubSource:
    """A `download.Source`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._endpoint = (keys.get("HF_ENDPOINT") or HUB).rstrip("/")
        self._headers = {"authorization": f"Bearer {keys['HF_TOKEN']}"} if keys.get("HF_TOKEN") else {}

    def announce(self, records: Sequence[Record]) -> None:
        """Nothing to prepare."""

    def open(self, record: Record) -> Iterator[bytes]:
        """The hub redirects to its storage; the token does not go along."""
        owner, name, *path = record.uri.removeprefix("hf://").removeprefix("models/").split("/")
        name, _, revision = name.partition("@")
        file = quote(unquote("/".join(path)))
        place = f"{quote(owner)}/{quote(name)}/resolve/{quote(revision or 'main', safe='')}/{file}"
        yield from _streamed(f"{self._endpoint}/{place}", self._headers, record, "HF_TOKEN")


def _streamed(url: str, headers: Mapping[str, str], record: Record, keys: str) -> Iterator[bytes]:
    import urllib3

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10.0, read=60.0), retries=urllib3.Retry(2))
    try:
        answer = pool.request("GET", url, headers=dict(headers), preload_content=False)
        try:
            _check(answer, record, keys)
            yield from answer.stream(CHUNK, decode_content=False)
        finally:
            answer.close()
    except urllib3.exceptions.HTTPError as error:
        raise CommandError(f"{record.uri}: {type(error).__name__}", "Check the address and the network.") from None
    finally:
        pool.clear()


def _check(answer: urllib3.BaseHTTPResponse, record: Record, keys: str) -> None:
    if answer.status == 200:
        return
    if answer.status in (401, 403):
        raise CommandError(f"{record.uri}: you may not read it ({answer.status})", f"Set {keys} in your environment.")
    if answer.status == 404:
        raise CommandError(
            f"{record.uri} is not there any more", "Somebody has removed it: run it again (kubectl finetune retry)."
        )
    raise CommandError(f"{record.uri}: the store answers {answer.status}", "Try again.")
