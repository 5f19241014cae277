"""Multipart uploads to S3, request by request: obstore cannot resume an upload that another process began.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/, CreateMultipartUpload and the operations that it refers to.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_trainer.errors import RunError
from finetune_trainer.stores.s3_requests import PAGE, NotSupported, S3Requests

__all__ = ["MultipartUploads", "NotSupported", "Part"]

MAX_PAGES: Final = 11
"""Of the parts of an upload, which has at most 10,000."""


@dataclass(frozen=True)
class Part:
    """A part that the store has. etag: without quotation marks. size: bytes."""

    etag: str
    size: int


class MultipartUploads(S3Requests):
    """The multipart uploads of one bucket."""

    def list_uploads(self, key: str) -> list[str]:
        """The ids of the uploads in progress to exactly this key.

        They are on the first page: keys are sorted, and the prefix itself comes before those that only start with it.
        """
        page = self.xml("GET", "", {"uploads": "", "prefix": key})
        found = [each for each in page.iter("Upload") if each.findtext("Key") == key]
        return [id_ for each in found if (id_ := each.findtext("UploadId"))]

    def list_parts(self, key: str, upload: str) -> dict[int, Part]:
        """The parts that the store has of an upload, by number from 1. Raises NotFound if the upload has ended."""
        found: dict[int, Part] = {}
        after = "0"
        for _ in range(MAX_PAGES):
            page = self.xml("GET", key, {"uploadId": upload, "max-parts": str(PAGE), "part-number-marker": after})
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
        upload = self.xml("POST", key, {"uploads": ""}, headers=headers).findtext("UploadId")
        if not upload:
            raise RunError(f"{self.title(key)}: the store returned no UploadId", self._reason)
        return upload

    def upload_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        """Send one part, with retries; returns its ETag. The store checks the bytes against their signed digest."""
        response = self.request("PUT", key, {"partNumber": str(number), "uploadId": upload}, data)
        return response.headers.get("etag", "").strip('"')

    def complete(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Assemble the object from these parts, numbered from 1; parts with higher numbers are dropped."""
        root = ElementTree.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
        for number, etag in enumerate(etags, 1):
            part = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(part, "PartNumber").text = str(number)
            ElementTree.SubElement(part, "ETag").text = f'"{etag}"'
        result = self.xml("POST", key, {"uploadId": upload}, ElementTree.tostring(root))
        if result.tag == "Error":  # with status 200
            raise RunError(f"{self.title(key)}: {result.findtext('Code')}", self._reason)

    def abort(self, key: str, upload: str) -> None:
        """Abort an upload, and delete its parts."""
        self.request("DELETE", key, {"uploadId": upload})
