"""Multipart uploads to S3, request by request: obstore cannot resume an upload that another process began.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/, CreateMultipartUpload and the operations that it refers to.
Only for credentials that are known as keys; a pod's web identity is exchanged inside obstore.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

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
MAX_PAGES: Final = 11
"""Of the parts of an upload, which has at most 10,000."""
MAX_RESPONSE: Final = 4 * 2**20
RETRIED: Final = (429, 500, 502, 503, 504)
UNSUPPORTED: Final = (405, 501)


@dataclass(frozen=True)
class Part:
    """A part that the store has. etag: without quotation marks. size: bytes."""

    etag: str
    size: int


class NotSupported(Exception):
    """The store does not support the operation."""


class MultipartUploads:
    """The multipart uploads of one bucket.

    reason: of the errors. Every method raises RunError (ConfigError if the credentials are rejected), NotFound, or
    NotSupported.
    """

    def __init__(self, bucket: str, endpoint: str, credentials: Credentials, reason: AnyReason) -> None:
        self._bucket, self._endpoint, self._credentials, self._reason = bucket, endpoint, credentials, reason
        self._client = httpx.Client(verify=ssl_context(), timeout=TIMEOUT, follow_redirects=False)

    def list_uploads(self, key: str) -> list[str]:
        """The ids of the uploads in progress to exactly this key.

        They are on the first page: keys are sorted, and the prefix itself comes before those that only start with it.
        """
        page = self._xml("GET", "", {"uploads": "", "prefix": key})
        found = [each for each in page.iter("Upload") if each.findtext("Key") == key]
        return [id_ for each in found if (id_ := each.findtext("UploadId"))]

    def list_parts(self, key: str, upload: str) -> dict[int, Part]:
        """The parts that the store has of an upload, by number from 1. Raises NotFound if the upload has ended."""
        found: dict[int, Part] = {}
        after = "0"
        for _ in range(MAX_PAGES):
            page = self._xml("GET", key, {"uploadId": upload, "max-parts": str(PAGE), "part-number-marker": after})
            for each in page.iter("Part"):
                etag, size = (each.findtext("ETag") or "").strip('"'), each.findtext("Size") or "-1"
                found[int(each.findtext("PartNumber") or 0)] = Part(etag, int(size))
            following = page.findtext("NextPartNumberMarker") or ""
            if page.findtext("IsTruncated") != "true" or following in ("", after):
                return found
            after = following
        raise RunError(f"{self.title(key)}: the store's list of its parts does not end", self._reason)

    def create(self, key: str, metadata: Mapping[str, str]) -> str:
        """Begin an upload; returns its id. metadata: of the object that it becomes."""
        headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        upload = self._xml("POST", key, {"uploads": ""}, headers=headers).findtext("UploadId")
        if not upload:
            raise RunError(f"{self.title(key)}: the store returned no UploadId", self._reason)
        return upload

    def upload_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        """Send one part, with retries; returns its ETag. The store checks the bytes against their signed digest."""
        response = self._request("PUT", key, {"partNumber": str(number), "uploadId": upload}, data)
        return response.headers.get("etag", "").strip('"')

    def complete(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Assemble the object from these parts, numbered from 1; parts with higher numbers are dropped."""
        root = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        result = self._xml("POST", key, {"uploadId": upload}, ElementTree.tostring(root))
        if result.tag == "Error":  # with status 200
            raise RunError(f"{self.title(key)}: {result.findtext('Code')}", self._reason)

    def abort(self, key: str, upload: str) -> None:
        """Abort an upload, and delete its parts."""
        self._request("DELETE", key, {"uploadId": upload})

    def _xml(
        self, method: str, key: str, parameters: Mapping[str, str], data: bytes = b"", **more: Any
    ) -> ElementTree.Element:
        """The XML of a response, without namespaces. Entities are rejected: none is needed, and they can expand."""
        body = self._request(method, key, parameters, data, **more).content
        if len(body) > MAX_RESPONSE or b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise RunError(f"{self.title(key)}: the store's response is too large, or declares entities", self._reason)
        try:
            root = ElementTree.fromstring(body)  # noqa: S314  bounded, and without entities
        except ElementTree.ParseError:
            raise RunError(f"{self.title(key)}: the store's response is not XML", self._reason) from None
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    def _request(
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
            sent = signed(method, url, self._credentials, datetime.now(UTC), payload_sha256=digest, headers=headers)
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
