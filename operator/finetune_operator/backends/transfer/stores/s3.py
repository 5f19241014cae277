"""S3 and what speaks its protocol: list, read, write in parts.

Paths name the bucket (path style): every compatible server takes it, buckets with dots need it, and the host that the
address guard checks is the endpoint's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.api.sigv4 import EMPTY_SHA256, Credentials, query, quoted, signed
from finetune_operator.backends.errors import Blocked, Permanent, Transient, UpstreamError
from finetune_operator.backends.http.documents import TooHeavy, xml_of
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.spool import Spool, Stored
from finetune_operator.backends.transfer.stores.listing import listing

if TYPE_CHECKING:
    from finetune_operator.backends.http.client import Streamed

PART_BYTES: Final = 16 * 2**20
MAX_PARTS: Final = 10_000
PAGE_KEYS: Final = 1000
MAX_KEYS: Final = 20_000
ATTEMPTS: Final = 4
PAUSE_SECONDS: Final = 0.5
CALL_SECONDS: Final = 600.0
MAX_ANSWER: Final = 4 * 2**20
MAX_LEFTOVERS: Final = 100
"""Of uploads that never ended; the next upload removes more of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """s3://bucket/key."""

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> Place:
        """Raises Permanent where the URI names no bucket."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket or "?" in bucket:
            raise Permanent(f"{uri} names no bucket: write s3://bucket/key", reason=Reason.INVALID_SPEC)
        return cls(bucket, key.strip("/"))

    def below(self, name: str) -> Place:
        """A key in this folder."""
        return Place(self.bucket, f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Bucket:
    """An S3 endpoint with the credentials of a Secret; without any, what is public."""

    def __init__(self, fetcher: Fetcher, secret: Mapping[str, str]) -> None:
        self._fetcher = fetcher
        region = secret.get("AWS_REGION", "").strip() or "us-east-1"
        self._endpoint = (secret.get("AWS_ENDPOINT_URL", "").strip() or f"https://s3.{region}.amazonaws.com").rstrip(
            "/"
        )
        self._credentials = _credentials(secret, region)

    async def keys(self, place: Place) -> list[str]:
        """Every key that begins with the place's, in order; no folders. Raises Permanent beyond MAX_KEYS."""
        found: list[str] = []
        token = ""
        async with listing(f"the listing of {place}") as read:
            while True:
                parameters = {"list-type": "2", "prefix": place.key, "max-keys": str(PAGE_KEYS)}
                if token:
                    parameters["continuation-token"] = token
                body = await self._call("GET", Place(place.bucket, ""), parameters, read.title)
                read.page(len(body))
                page = await _xml(body, read.title)
                keys = [entry.findtext("Key") or "" for entry in page.iter("Contents")]
                found += [key for key in keys if key.startswith(place.key) and not key.endswith("/")]
                if len(found) > MAX_KEYS:
                    raise Permanent(
                        f"{place} holds more than {MAX_KEYS} objects: name a file in the URI",
                        reason=Reason.DATA_VALIDATION_FAILED,
                    )
                if page.findtext("IsTruncated") != "true":
                    return found
                following = page.findtext("NextContinuationToken") or ""
                if following in ("", token):
                    raise Transient(
                        f"{read.title}: the store says that there is more, and not where it goes on",
                        reason=Reason.UPSTREAM_ANSWER_UNREADABLE,
                    )
                token = following

    async def download(self, place: Place, spool: Spool, limit: int | None = None) -> Stored:
        """One object."""
        url = self._url(place)
        return await spool.download(
            self._fetcher, url, str(place), limit=limit, headers=self._headers("GET", url, EMPTY_SHA256, {})
        )

    async def upload(self, place: Place, stored: Stored) -> None:
        """Write one object, in parts where it is large; a part that fails is sent again. Nothing stays half done."""
        if stored.size <= PART_BYTES:
            data = await asyncio.to_thread(stored.path.read_bytes)
            await self._call("PUT", place, {}, str(place), data)
            return
        if stored.size > PART_BYTES * MAX_PARTS:
            raise Permanent(f"{place} would have more than {MAX_PARTS} parts", reason=Reason.ARTIFACT_UPLOAD_FAILED)
        await self._abort_leftovers(place)
        started = await _xml(await self._call("POST", place, {"uploads": ""}, str(place)), str(place))
        upload = started.findtext("UploadId") or ""
        if not upload:
            raise Transient(f"{place}: the store gives no UploadId", reason=Reason.ARTIFACT_UPLOAD_FAILED)
        try:
            parts = [part async for part in self._parts(place, upload, stored.path)]
            await self._complete(place, upload, parts)
        except BaseException:
            await self._abort(place, upload)
            raise

    async def _parts(self, place: Place, upload: str, path: Path) -> AsyncIterator[str]:
        with path.open("rb") as file:
            number = 0
            while data := await asyncio.to_thread(file.read, PART_BYTES):
                number += 1
                parameters = {"partNumber": str(number), "uploadId": upload}
                yield await self._etag(place, parameters, f"part {number} of {place}", data)

    async def _etag(self, place: Place, parameters: dict[str, str], title: str, data: bytes) -> str:
        headers, _ = await self._answered("PUT", place, parameters, title, data)
        return headers.get("etag", "")

    async def _complete(self, place: Place, upload: str, etags: list[str]) -> None:
        root = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = etag
        body = await self._call("POST", place, {"uploadId": upload}, str(place), ElementTree.tostring(root))
        answer = await _xml(body, str(place))
        if answer.tag == "Error":  # a 200 may say that it failed
            raise Transient(f"{place}: {answer.findtext('Code')}", reason=Reason.ARTIFACT_UPLOAD_FAILED)

    async def _abort(self, place: Place, upload: str) -> None:
        with suppress(UpstreamError):  # its parts stay until the bucket's own rule, or the next upload, removes them
            await self._call("DELETE", place, {"uploadId": upload}, str(place))

    async def _abort_leftovers(self, place: Place) -> None:
        """Uploads of this very key that an earlier operator did not live to end; they cost storage."""
        try:
            body = await self._call("GET", Place(place.bucket, ""), {"uploads": "", "prefix": place.key}, str(place))
        except Transient:
            raise
        except UpstreamError:
            return  # not everybody who may write may list
        leftovers = [
            each for each in (await _xml(body, str(place))).iter("Upload") if each.findtext("Key") == place.key
        ]
        for upload in leftovers[:MAX_LEFTOVERS]:
            await self._abort(place, upload.findtext("UploadId") or "")

    async def _call(
        self, method: str, place: Place, parameters: Mapping[str, str], title: str, data: bytes = b""
    ) -> bytes:
        return (await self._answered(method, place, parameters, title, data))[1]

    async def _answered(
        self, method: str, place: Place, parameters: Mapping[str, str], title: str, data: bytes
    ) -> tuple[Mapping[str, str], bytes]:
        url = self._url(place, parameters)
        digest = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
        for attempt in range(1, ATTEMPTS + 1):
            headers = self._headers(method, url, digest, {"Content-Length": str(len(data))} if data else {})
            try:
                return await self._once(method, url, headers, title, data)
            except Transient as error:
                if attempt == ATTEMPTS or error.retry_after:
                    raise
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError

    async def _once(
        self, method: str, url: str, headers: dict[str, str], title: str, data: bytes
    ) -> tuple[Mapping[str, str], bytes]:
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                self._fetcher.open(method, url, title=title, headers=headers, content=data or None) as streamed,
            ):
                self._check_region(streamed, title)
                await self._fetcher.expect(streamed, title)
                return streamed.headers, b"".join([chunk async for chunk in streamed.chunks(MAX_ANSWER)])
        except TimeoutError:
            raise Transient(f"{title}: no answer within {CALL_SECONDS:.0f} s") from None

    def _check_region(self, streamed: Streamed, title: str) -> None:
        region = streamed.headers.get("x-amz-bucket-region")
        mine = self._credentials.region if self._credentials else region
        if streamed.status in (301, 307, 400) and region and region != mine:
            raise Blocked(
                f"{title}: the bucket is in region {region}; put AWS_REGION: {region} into the Secret",
                reason=Reason.PROVIDER_NOT_CONFIGURED,
            )

    def _url(self, place: Place, parameters: Mapping[str, str] | None = None) -> str:
        path = quoted(f"/{place.bucket}/{place.key}" if place.key else f"/{place.bucket}", safe="/")
        return f"{self._endpoint}{path}{f'?{query(parameters)}' if parameters else ''}"

    def _headers(self, method: str, url: str, digest: str, headers: dict[str, str]) -> dict[str, str]:
        if self._credentials is None:
            return headers
        now = datetime.now(UTC)
        return signed(method, url, self._credentials, now, payload_sha256=digest, headers=headers)


def _credentials(secret: Mapping[str, str], region: str) -> Credentials | None:
    access, key = secret.get("AWS_ACCESS_KEY_ID", "").strip(), secret.get("AWS_SECRET_ACCESS_KEY", "").strip()
    if not access and not key:
        return None
    if not access or not key:
        raise Blocked(
            "the Secret for s3:// needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both",
            reason=Reason.SECRET_KEY_MISSING,
        )
    return Credentials(access, key, secret.get("AWS_SESSION_TOKEN", "").strip(), region)


async def _xml(body: bytes, title: str) -> ElementTree.Element:
    """The document without its namespace. Entities are refused: none is ever needed, and they can multiply."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise Permanent(f"{title}: the store's answer declares XML entities", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
    try:
        root = await xml_of(body)
    except TooHeavy:
        raise Permanent(
            f"{title}: the store's answer is too large to be read ({len(body)} bytes)",
            reason=Reason.UPSTREAM_ANSWER_UNREADABLE,
        ) from None
    except ElementTree.ParseError:
        raise Transient(f"{title}: the store's response is not XML", reason=Reason.UPSTREAM_ANSWER_UNREADABLE) from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
