"""Uploads to S3 in parts, request by request: obstore has no way to go on with one that another process began.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/, CreateMultipartUpload and the calls named there. Only for
credentials that are at hand as keys; a pod's own web identity is exchanged inside obstore.
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
from finetune_trainer.stores.s3 import MAX_SAID, NotThere, Place
from finetune_trainer.stores.tls import trusted

ATTEMPTS: Final = 4
PAUSE_S: Final = 0.5
TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
"""Bounds one wait, not a part: the store may take a while to put the parts together."""
PAGE: Final = 1000
MAX_ANSWER: Final = 4 * 2**20
TRIED_AGAIN: Final = (429, 500, 502, 503, 504)
UNKNOWN: Final = (405, 501)


@dataclass(frozen=True)
class Part:
    """A part that the store has. etag: without quotation marks; size in bytes."""

    etag: str
    size: int


class NotSupported(Exception):
    """The store does not know the call."""


class Parts:
    """The uploads in parts of one bucket. Every method raises RunError (ConfigError where the store refuses), NotThere
    and NotSupported.

    reason: of the errors.
    """

    def __init__(self, bucket: str, endpoint: str, credentials: Credentials, reason: AnyReason) -> None:
        self._bucket, self._endpoint, self._credentials, self._reason = bucket, endpoint, credentials, reason
        self._client = httpx.Client(verify=trusted(), timeout=TIMEOUT, follow_redirects=False)

    def uploads(self, key: str) -> list[str]:
        """The ids of the uploads to exactly this key that were begun and not ended.

        The first page tells: keys come in their order, and the prefix itself before all that only begin with it.
        """
        page = self._xml("GET", "", {"uploads": "", "prefix": key})
        found = [each for each in page.iter("Upload") if each.findtext("Key") == key]
        return [id_ for each in found if (id_ := each.findtext("UploadId"))]

    def parts(self, key: str, upload: str) -> dict[int, Part]:
        """What the store has of an upload, by number from 1. Raises NotThere for one that has ended."""
        found: dict[int, Part] = {}
        after = "0"
        while True:
            page = self._xml("GET", key, {"uploadId": upload, "max-parts": str(PAGE), "part-number-marker": after})
            for each in page.iter("Part"):
                etag, size = (each.findtext("ETag") or "").strip('"'), each.findtext("Size") or "-1"
                found[int(each.findtext("PartNumber") or 0)] = Part(etag, int(size))
            following = page.findtext("NextPartNumberMarker") or ""
            if page.findtext("IsTruncated") != "true" or following in ("", after):
                return found
            after = following

    def begin(self, key: str, metadata: Mapping[str, str]) -> str:
        """Its id. metadata: of the object that it becomes."""
        headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
        upload = self._xml("POST", key, {"uploads": ""}, headers=headers).findtext("UploadId")
        if not upload:
            raise RunError(f"{self.title(key)}: the store gives no UploadId", self._reason)
        return upload

    def put(self, key: str, upload: str, number: int, data: bytes) -> str:
        """Send one part, again where that fails; its ETag. The store checks the bytes against their signed digest."""
        answer = self._answered("PUT", key, {"partNumber": str(number), "uploadId": upload}, data)
        return answer.headers.get("etag", "").strip('"')

    def complete(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Make the object of these parts, from 1 on; parts of higher numbers are dropped."""
        root = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        answer = self._xml("POST", key, {"uploadId": upload}, ElementTree.tostring(root))
        if answer.tag == "Error":  # a 200 may say that it failed
            raise RunError(f"{self.title(key)}: {answer.findtext('Code')}", self._reason)

    def abort(self, key: str, upload: str) -> None:
        """Drop an upload and its parts."""
        self._answered("DELETE", key, {"uploadId": upload})

    def _xml(
        self, method: str, key: str, parameters: Mapping[str, str], data: bytes = b"", **more: Any
    ) -> ElementTree.Element:
        """The document without its namespace. Entities are refused: none is ever needed, and they can multiply."""
        body = self._answered(method, key, parameters, data, **more).content
        if len(body) > MAX_ANSWER or b"<!DOCTYPE" in body or b"<!ENTITY" in body:
            raise RunError(f"{self.title(key)}: the store's answer is too large, or declares entities", self._reason)
        try:
            root = ElementTree.fromstring(body)  # noqa: S314  bounded, and without entities
        except ElementTree.ParseError:
            raise RunError(f"{self.title(key)}: the store's answer is no XML", self._reason) from None
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    def _answered(
        self,
        method: str,
        key: str,
        parameters: Mapping[str, str],
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """key: empty for the bucket itself. Raises NotThere, ConfigError, RunError."""
        path = quoted(f"/{self._bucket}/{key}".rstrip("/"), safe="/")
        url, digest = f"{self._endpoint}{path}?{query(parameters)}", sha256(data).hexdigest()
        for attempt in range(1, ATTEMPTS + 1):
            sent = signed(method, url, self._credentials, datetime.now(UTC), payload_sha256=digest, headers=headers)
            try:
                answer = self._client.request(method, url, content=data, headers=sent)
                if answer.status_code not in TRIED_AGAIN:
                    return self._checked(answer, key)
                said = f"{answer.status_code} {_said(answer)}"
            except httpx.TransportError as error:
                said = str(error) or type(error).__name__
            if attempt < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
        raise RunError(f"{self.title(key)}: the store does not answer well: {said}", self._reason)

    def _checked(self, answer: httpx.Response, key: str) -> httpx.Response:
        if answer.is_success:
            return answer
        if answer.status_code == 404:
            raise NotThere(self.title(key))
        if answer.status_code in UNKNOWN:
            raise NotSupported(self.title(key))
        title = f"{self.title(key)}: the store refuses"
        if answer.status_code in (401, 403):
            raise ConfigError(f"{title} the credentials: {_said(answer)}", self._reason)
        raise RunError(f"{title}: {answer.status_code} {_said(answer)}", self._reason)

    def title(self, key: str) -> str:
        """s3://bucket/key."""
        return str(Place(self._bucket, key))


def _said(answer: httpx.Response) -> str:
    """The store's own word for what is wrong."""
    _, _, rest = answer.text[:MAX_ANSWER].partition("<Code>")
    return rest.partition("</Code>")[0][:MAX_SAID]
