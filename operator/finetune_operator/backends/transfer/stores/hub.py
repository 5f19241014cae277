"""The Hugging Face hub: datasets in, adapters out.

Wire facts: the `huggingface_hub` client 2.4 (its source and its requests). The client itself is not used, because it
brings its own connections, and an upload path in native code, both past the address guard.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from finetune_operator.api.hub import Repository
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Gone, Permanent, Rejected, Transient
from finetune_operator.backends.http.documents import TooHeavy, json_of
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.spool import Spool, Stored
from finetune_operator.backends.transfer.stores.listing import listing

ENDPOINT: Final = "https://huggingface.co"
MAX_FILES: Final = 20_000
MAX_PAGE: Final = 4 * 2**20
CHUNK: Final = 1 << 20
SAMPLE_BYTES: Final = 512
_LFS: Final = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}
_JSON: Final = {"Content-Type": "application/json"}


def repository_of(uri: str, kind: str) -> Repository:
    """`kind`: what the URI may name, "datasets" or "models". Raises Permanent for anything else."""
    try:
        return Repository.of(uri, kind)
    except ValueError as error:
        raise Permanent(str(error), reason=Reason.INVALID_SPEC) from None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file for a commit: its path in the repository, and where it is."""

    path: str
    stored: Stored


class Hub:
    """The hub with the token of a Secret (HF_TOKEN; HF_ENDPOINT for a mirror); without one, what is public."""

    def __init__(self, fetcher: Fetcher, secret: Mapping[str, str]) -> None:
        self._fetcher = fetcher
        self._endpoint = (secret.get("HF_ENDPOINT", "").strip() or ENDPOINT).rstrip("/")
        token = secret.get("HF_TOKEN", "").strip()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def files(self, repository: Repository) -> list[str]:
        """The paths of all files below the repository's path. Raises Gone where there is no such folder."""
        at = f"/{quote(repository.path, safe='')}" if repository.path else ""
        url = (
            f"{self._endpoint}/api/{repository.kind}/{repository.id}/tree/{quote(repository.revision, safe='')}{at}"
            "?recursive=true&expand=false"
        )
        found: list[str] = []
        async with listing(f"the listing of {repository}") as read:
            while url:
                streamed, body = await self._fetcher.call(
                    "GET", url, title=read.title, headers=self._headers, limit=MAX_PAGE
                )
                read.page(len(body))
                page = await _json(body, read.title)
                if not isinstance(page, list):
                    raise _unreadable(read.title)
                files = [each for each in page if isinstance(each, dict) and each.get("type") == "file"]
                found += [path for each in files if isinstance(path := each.get("path"), str)]
                if len(found) > MAX_FILES:
                    raise Permanent(
                        f"{repository} holds more than {MAX_FILES} files: name a file in the URI",
                        reason=Reason.DATA_VALIDATION_FAILED,
                    )
                url = self._following(streamed.headers.get("link", ""), read.title)
        return found

    def _following(self, link: str, title: str) -> str:
        found = re.search(r'<([^>]+)>\s*;\s*rel="next"', link)
        if found and not found[1].startswith(f"{self._endpoint}/"):
            raise Permanent(
                f"{title} goes on at another host, which would be sent the token: name a file in the URI",
                reason=Reason.UPSTREAM_ANSWER_UNREADABLE,
            )
        return found[1] if found else ""

    async def download(self, repository: Repository, path: str, spool: Spool, limit: int | None = None) -> Stored:
        """One file of the repository. The hub redirects to its storage; the token does not go along."""
        prefix = "" if repository.kind == "models" else f"{repository.kind}/"
        url = (
            f"{self._endpoint}/{prefix}{repository.id}/resolve/"
            f"{quote(repository.revision, safe='')}/{quote(path, safe='/')}"
        )
        return await spool.download(self._fetcher, url, str(repository), limit=limit, headers=self._headers)

    async def commit(self, repository: Repository, uploads: Sequence[Upload], summary: str) -> None:
        """All files in one commit of a model repository, which is made (private) where it is missing."""
        try:
            modes = await self._modes(repository, uploads)
        except Gone:
            await self._create(repository)
            modes = await self._modes(repository, uploads)
        for upload in uploads:
            if modes.get(upload.path) == "lfs":
                await self._store(repository, upload)
        url = f"{self._api(repository)}/commit/{quote(repository.revision, safe='')}"
        headers = {**self._headers, "Content-Type": "application/x-ndjson"}
        body = b"\n".join([line async for line in _lines(uploads, modes, summary)])
        await self._fetcher.call("POST", url, title=str(repository), headers=headers, content=body)

    async def _modes(self, repository: Repository, uploads: Sequence[Upload]) -> dict[str, str]:
        """Path -> "lfs" or "regular", as the hub wants it."""
        files = [
            {
                "path": upload.path,
                "sample": base64.b64encode(await asyncio.to_thread(_head, upload)).decode(),
                "size": upload.stored.size,
            }
            for upload in uploads
        ]
        url = f"{self._api(repository)}/preupload/{quote(repository.revision, safe='')}"
        answer = await self._post(url, str(repository), {"files": files}, _JSON)
        modes = {str(each.get("path")): str(each.get("uploadMode")) for each in answer.get("files") or []}
        small = {upload.path for upload in uploads if upload.stored.size == 0}
        return {path: "regular" if path in small else mode for path, mode in modes.items()}

    async def _create(self, repository: Repository) -> None:
        organisation, _, name = repository.id.partition("/")
        body = {"name": name, "organization": organisation, "type": "model", "visibility": "private"}
        try:
            await self._post(f"{self._endpoint}/api/repos/create", str(repository), body, _JSON)
        except Rejected as error:
            if error.status != 409:  # somebody was faster
                raise

    async def _store(self, repository: Repository, upload: Upload) -> None:
        """Git LFS, as the hub speaks it: one PUT, or parts whose addresses the hub gives."""
        url = f"{self._endpoint}/{repository.id}.git/info/lfs/objects/batch"
        stored, title = upload.stored, f"{repository} {upload.path}"
        wanted = {
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": stored.sha256, "size": stored.size}],
            "hash_algo": "sha256",
            "ref": {"name": repository.revision},
        }
        answer = await self._post(url, title, wanted, _LFS)
        objects = answer.get("objects")
        first = objects[0] if isinstance(objects, list) and objects and isinstance(objects[0], dict) else {}
        if error := first.get("error"):
            words = error.get("message") if isinstance(error, dict) else error
            raise Permanent(f"{title}: {words}", reason=Reason.ARTIFACT_UPLOAD_FAILED)
        actions = first.get("actions")
        if not actions:
            return  # it is there already
        try:
            await self._put(actions["upload"], stored, title)
            if verify := actions.get("verify"):
                body = {"oid": stored.sha256, "size": stored.size}
                await self._post(str(verify["href"]), title, body, {**_LFS, **(verify.get("header") or {})})
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _unreadable(title) from None

    async def _put(self, action: Mapping[str, Any], stored: Stored, title: str) -> None:
        header = action.get("header") or {}
        if "chunk_size" not in header:
            await self._fetcher.call(
                "PUT",
                str(action["href"]),
                title=title,
                headers={"Content-Length": str(stored.size)},
                content=_read(stored, 0, stored.size),
            )
            return
        size, parts = int(header["chunk_size"]), sorted((int(key), str(header[key])) for key in header if key.isdigit())
        if size < 1 or len(parts) != -(-stored.size // size):
            raise ValueError
        etags = []
        for index, (_, url) in enumerate(parts):
            length = min(size, stored.size - index * size)
            streamed, _ = await self._fetcher.call(
                "PUT",
                url,
                title=title,
                headers={"Content-Length": str(length)},
                content=_read(stored, index * size, length),
            )
            etags.append({"partNumber": index + 1, "etag": streamed.headers["etag"]})
        body = orjson.dumps({"oid": stored.sha256, "parts": etags})
        # Its address is signed: the token stays here.
        await self._fetcher.call("POST", str(action["href"]), title=title, headers=_LFS, content=body)

    async def _post(self, url: str, title: str, body: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        own = self._headers if url.startswith(f"{self._endpoint}/") else {}
        _, answer = await self._fetcher.call(
            "POST", url, title=title, headers={**own, **headers}, content=orjson.dumps(body)
        )
        parsed = await _json(answer, title) if answer else {}
        if not isinstance(parsed, dict):
            raise _unreadable(title)
        return parsed

    def _api(self, repository: Repository) -> str:
        return f"{self._endpoint}/api/{repository.kind}/{repository.id}"


async def _lines(uploads: Sequence[Upload], modes: Mapping[str, str], summary: str) -> AsyncIterator[bytes]:
    yield orjson.dumps({"key": "header", "value": {"summary": summary, "description": ""}})
    for upload in uploads:
        if modes.get(upload.path) == "lfs":
            value: dict[str, Any] = {"path": upload.path, "algo": "sha256"}
            value |= {"oid": upload.stored.sha256, "size": upload.stored.size}
            yield orjson.dumps({"key": "lfsFile", "value": value})
        else:
            if upload.stored.size > MAX_PAGE:
                raise Permanent(f"{upload.path}: the hub wants {upload.stored.size} bytes inside the commit")
            content = base64.b64encode(await asyncio.to_thread(upload.stored.path.read_bytes)).decode()
            value = {"path": upload.path, "content": content, "encoding": "base64"}
            yield orjson.dumps({"key": "file", "value": value})


async def _read(stored: Stored, start: int, length: int) -> AsyncIterator[bytes]:
    with stored.path.open("rb") as file:
        file.seek(start)
        while length > 0 and (data := await asyncio.to_thread(file.read, min(CHUNK, length))):
            length -= len(data)
            yield data


def _head(upload: Upload) -> bytes:
    with upload.stored.path.open("rb") as file:
        return file.read(SAMPLE_BYTES)


async def _json(body: bytes, title: str) -> Any:
    try:
        return await json_of(body)
    except TooHeavy:
        raise Permanent(
            f"{title}: the hub's answer is too large to be read ({len(body)} bytes)",
            reason=Reason.UPSTREAM_ANSWER_UNREADABLE,
        ) from None
    except ValueError:
        raise _unreadable(title) from None


def _unreadable(title: str) -> Transient:
    return Transient(f"{title}: the hub's answer cannot be read", reason=Reason.UPSTREAM_ANSWER_UNREADABLE)
