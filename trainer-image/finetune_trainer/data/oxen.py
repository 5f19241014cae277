"""Datasets at oxen://namespace/repository/branch/path: files of an Oxen repository, by the hub's HTTP API.

Wire: Oxen server OpenAPI 0.52.0, `/api/repos/{namespace}/{repo}/{dir,file,metadata}/{branch}/{path}` with a bearer
token. Branches have slashes too; the server knows where one ends, so branch and path stay together here.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx

from finetune_operator.api.reasons import Reason
from finetune_operator.formats.layout import suffix_of
from finetune_trainer.data.downloads import ATTEMPTS, Downloads, Interrupted, Unreachable
from finetune_trainer.data.remote import MAX_FILES, Entry, NotFound, listed
from finetune_trainer.errors import ConfigError, DataError

HUB: Final = "https://hub.oxen.ai"
KEY: Final = "api-key"
BASE_URL: Final = "base-url"
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
CHUNK: Final = 1 << 18
PAGE: Final = 1000
MAX_ANSWER: Final = 16 * 2**20


class OxenDataset:
    """A `Remote`. `file`: the name of the one file that the URI names."""

    def __init__(
        self,
        uri: str,
        file: str | None,
        secret: Mapping[str, str],
        downloads: Downloads,
        check: Callable[[], None],
        backoff_s: float = 0.5,
    ) -> None:
        namespace, _, rest = uri.removeprefix("oxen://").strip("/").partition("/")
        repository, _, resource = rest.partition("/")
        if not namespace or not repository or not resource:
            raise ConfigError(f"{uri}: write oxen://namespace/repository/branch[/path]")
        self.title, self.file = uri, file
        self._folder = str(PurePosixPath(resource).parent) if file else resource
        base = secret.get(BASE_URL, "").rstrip("/") or HUB
        if not base.startswith(("https://", "http://")):
            raise ConfigError(f"the key {BASE_URL} of the dataset's Secret is no https:// address")
        self._api = f"{base}/api/repos/{quote(namespace, safe='')}/{quote(repository, safe='')}"
        headers = {"Authorization": f"Bearer {secret[KEY]}"} if secret.get(KEY) else {}
        # Where the hub redirects to its storage, httpx leaves the key behind.
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True)
        weakref.finalize(self, self._client.close)  # the dataset lives as long as the run
        self._downloads, self._check, self._backoff_s = downloads, check, backoff_s

    def entries(self) -> Mapping[str, Entry]:
        """By the file's metadata, or by walking the folder."""
        try:
            if self.file:
                found = self._json(self._url("metadata", self.file))
                return {self.file: _entry(self.file, found.get("entry") or {})}
            return listed(dict(self._walk("")), self.title)
        except NotFound:
            raise DataError(f"there is nothing at {self.title}", Reason.DATASET_NOT_FOUND) from None

    def _walk(self, folder: str) -> Iterator[tuple[str, Entry]]:
        """Folder by folder, page by page."""
        waiting, count = [folder], 0
        while waiting:
            folder = waiting.pop()
            for each in self._children(folder):
                name = f"{folder}/{each.get('filename')}".lstrip("/")
                if each.get("is_dir"):
                    waiting.append(name)
                else:
                    yield name, _entry(name, each)
                count += 1
                if count > MAX_FILES:
                    return

    def _children(self, folder: str) -> Iterator[dict[str, Any]]:
        page, pages = 1, 1
        while page <= pages:
            found = self._json(self._url("dir", folder), {"page": str(page), "page_size": str(PAGE)})
            yield from (each for each in found.get("entries") or () if isinstance(each, dict))
            pages = int(found.get("total_pages") or 1)
            page += 1

    def fetch(self, entry: Entry, limit: int) -> Path:
        """A GET of the file."""
        url = self._url("file", entry.name)
        return self._downloads.fetch(
            f"{url} {entry.version}",
            f"{self.title} ({entry.name})",
            limit,
            lambda offset: self._pour(url, offset),
            suffix=suffix_of(entry.name),
            size=entry.size,
        )

    def _pour(self, url: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._answer(url, None, headers) as response:
            skipped = 0 if response.status_code == 206 else offset
            for chunk in response.iter_bytes():  # as they come: what has come is kept
                yield chunk[skipped:]
                skipped = max(0, skipped - len(chunk))

    def _json(self, url: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS + 1):
            self._check()
            try:
                return self._document(url, parameters)
            except Interrupted as error:
                if attempt == ATTEMPTS:
                    raise Unreachable(f"{self.title}: {error}") from None
                time.sleep(self._backoff_s * 2**attempt)
        raise AssertionError

    def _document(self, url: str, parameters: Mapping[str, str] | None) -> dict[str, Any]:
        body = bytearray()
        with self._answer(url, parameters, {}) as response:
            for chunk in response.iter_bytes(CHUNK):
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise DataError(f"{self.title}: the hub's answer has more than {MAX_ANSWER} bytes")
        try:
            document = json.loads(body)
        except ValueError:
            raise Interrupted("the hub's answer is not valid JSON") from None
        if not isinstance(document, dict):
            raise Interrupted("the hub's answer is not a JSON object")
        return document

    @contextmanager
    def _answer(
        self, url: str, parameters: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", url, params=parameters, headers=headers) as response:
                status = response.status_code
                if status == 404:
                    raise NotFound(url)
                if status in (401, 402, 403):
                    raise ConfigError(f"{self.title}: the hub refuses the key ({status})", Reason.DATASET_ACCESS_DENIED)
                if status not in (200, 206):
                    raise Interrupted(f"the hub answers {status}")
                yield response
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise Interrupted(str(error) or type(error).__name__) from None

    def _url(self, call: str, name: str) -> str:
        return f"{self._api}/{call}/{quote(f'{self._folder}/{name}'.strip('/'))}"


def _entry(name: str, found: Mapping[str, Any]) -> Entry:
    commit = found.get("latest_commit")
    version = found.get("hash") or (commit.get("id") if isinstance(commit, dict) else "") or uuid4().hex
    size = found.get("size")
    return Entry(name, str(version), size if isinstance(size, int) else None)
