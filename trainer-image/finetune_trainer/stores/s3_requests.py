"""Requests to S3 of which obstore knows nothing: uploads that another process began, and keys that are no paths.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/. Only for credentials that are known as keys, or without any; a
pod's web identity is exchanged inside obstore.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote_plus

import httpx

from finetune_operator.api.sigv4 import Credentials, query, quoted, signed
from finetune_trainer.errors import AnyReason, ConfigError, RunError
from finetune_trainer.stores.s3 import MAX_ERROR_TEXT, NotFound, S3Location
from finetune_trainer.stores.tls import ssl_context

ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.5
TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
"""For one read or write, not for a part: the store may take a while to assemble the parts."""
PAGE: Final = 1000
MAX_RESPONSE: Final = 4 * 2**20
RETRIED: Final = (429, 500, 502, 503, 504)
UNSUPPORTED: Final = (405, 501)


class NotSupported(Exception):
    """The store does not support the operation."""


class S3Requests:
    """Requests to one bucket.

    credentials: None for requests without a signature. reason: of the errors. Every method raises RunError (ConfigError
    if the credentials are rejected), NotFound, or NotSupported.
    """

    def __init__(self, bucket: str, endpoint: str, credentials: Credentials | None, reason: AnyReason) -> None:
        self._bucket, self._endpoint, self._credentials, self._reason = bucket, endpoint, credentials, reason
        self._client = httpx.Client(verify=ssl_context(), timeout=TIMEOUT, follow_redirects=False)

    def xml(
        self, method: str, key: str, parameters: Mapping[str, str], data: bytes = b"", **more: Any
    ) -> ElementTree.Element:
        """The XML of a response, without namespaces. Entities are rejected: none is needed, and they can expand."""
        body = self.request(method, key, parameters, data, **more).content
        if len(body) > MAX_RESPONSE or b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise RunError(f"{self.title(key)}: the store's response is too large, or declares entities", self._reason)
        try:
            root = ElementTree.fromstring(body)  # noqa: S314  bounded, and without entities
        except ElementTree.ParseError:
            raise RunError(f"{self.title(key)}: the store's response is not XML", self._reason) from None
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    def request(
        self,
        method: str,
        key: str,
        parameters: Mapping[str, str],
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """A successful response. key: empty for the bucket itself. Raises NotFound, ConfigError, RunError."""
        path = quoted(f"/{self._bucket}/{key}".rstrip("/"), safe="/")
        url, digest = f"{self._endpoint}{path}?{query(parameters)}", sha256(data).hexdigest()
        for attempt in range(1, ATTEMPTS + 1):
            sent = dict(headers or {})
            if self._credentials is not None:
                now = datetime.now(UTC)
                sent = signed(method, url, self._credentials, now, payload_sha256=digest, headers=headers)
            try:
                response = self._client.request(method, url, content=data, headers=sent)
                if response.status_code not in RETRIED:
                    return self._checked(response, key)
                failure = f"{response.status_code} {_error_code(response)}"
            except httpx.TransportError as error:
                failure = str(error) or type(error).__name__
            if attempt < ATTEMPTS:
                time.sleep(BACKOFF_S * 2**attempt)
        raise RunError(f"{self.title(key)}: the request to the store failed: {failure}", self._reason)

    def _checked(self, response: httpx.Response, key: str) -> httpx.Response:
        if response.is_success:
            return response
        if response.status_code == 404:
            raise NotFound(self.title(key))
        if response.status_code in UNSUPPORTED:
            raise NotSupported(self.title(key))
        code = _error_code(response)
        if response.status_code in (401, 403):
            raise ConfigError(f"{self.title(key)}: the store rejects the credentials: {code}", self._reason)
        raise RunError(f"{self.title(key)}: the store rejects the request: {response.status_code} {code}", self._reason)

    def title(self, key: str) -> str:
        """`s3://bucket/key`."""
        return str(S3Location(self._bucket, key))


def _error_code(response: httpx.Response) -> str:
    """The error code in a response."""
    _, _, rest = response.text[:MAX_RESPONSE].partition("<Code>")
    return rest.partition("</Code>")[0][:MAX_ERROR_TEXT]


@dataclass(frozen=True)
class Object:
    """An object of a listing. version: its ETag. size: bytes."""

    key: str
    version: str
    size: int


def list_objects(requests: S3Requests, prefix: str, check: Callable[[], None]) -> Iterator[Object]:
    """The objects whose keys start with a prefix, whatever else the keys are (ListObjectsV2).

    check: called before each page; raises Preempted to stop.
    """
    after: dict[str, str] = {}
    while True:
        check()
        wanted = {"list-type": "2", "prefix": prefix, "max-keys": str(PAGE), "encoding-type": "url", **after}
        page = requests.xml("GET", "", wanted)
        for each in page.iter("Contents"):
            key, size = unquote_plus(each.findtext("Key") or ""), each.findtext("Size") or "0"
            yield Object(key, each.findtext("ETag") or "", int(size))
        token = page.findtext("NextContinuationToken")
        if page.findtext("IsTruncated") != "true" or not token or {"continuation-token": token} == after:
            return
        after = {"continuation-token": token}
