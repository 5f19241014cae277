"""Datasets at oxen://namespace/repository/branch/path: files of an Oxen repository, through the server's HTTP API.

API: Oxen server OpenAPI 0.52.0, `/api/repos/{namespace}/{repo}/{dir,file,metadata}/{branch}/{path}` with a bearer
token. Branches may contain slashes; only the server knows where one ends, so that branch and path are not separated
here.
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
from finetune_operator.api.uri_paths import decoded_path
from finetune_operator.formats.layout import suffix_of
from finetune_trainer.data.downloads import ATTEMPTS, Downloads, Interrupted, Unreachable
from finetune_trainer.data.remote import MAX_FILES, Entry, NotFound, checked_listing
from finetune_trainer.errors import ConfigError, DataError

HUB: Final = "https://hub.oxen.ai"
KEY: Final = "api-key"
BASE_URL: Final = "base-url"
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
CHUNK: Final = 1 << 18
PAGE: Final = 1000
MAX_RESPONSE: Final = 16 * 2**20


class OxenDataset:
    """A `Remote` on an Oxen server. file: name of the file, if the URI names a single file."""

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
        repository, _, encoded = rest.partition("/")
        try:
            resource = decoded_path(encoded)
        except ValueError as error:
            raise ConfigError(f"{uri}: {error}") from None
        if not namespace or not repository or not resource:
            raise ConfigError(f"{uri}: write oxen://namespace/repository/branch[/path]")
        self.title, self.file = uri, file
        self._folder = str(PurePosixPath(resource).parent) if file else resource
        base = secret.get(BASE_URL, "").rstrip("/") or HUB
        if not base.startswith(("https://", "http://")):
            raise ConfigError(f"the key {BASE_URL} of the dataset's Secret is not an https:// URL")
        self._api = f"{base}/api/repos/{quote(namespace, safe='')}/{quote(repository, safe='')}"
        headers = {"Authorization": f"Bearer {secret[KEY]}"} if secret.get(KEY) else {}
        # httpx does not send the key to the storage to which the server may redirect.
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True)
        weakref.finalize(self, self._client.close)  # the dataset lives as long as the run
        self._downloads, self._check, self._backoff_s = downloads, check, backoff_s

    def entries(self) -> Mapping[str, Entry]:
        """By the file's metadata, or by listing the folder and its subfolders."""
        try:
            if self.file:
                found = self._json(self._url("metadata", self.file))
                return {self.file: _entry(self.file, found.get("entry") or {})}
            return checked_listing(dict(self._walk("")), self.title)
        except NotFound:
            raise DataError(f"{self.title} does not exist", Reason.DATASET_NOT_FOUND) from None

    def _walk(self, folder: str) -> Iterator[tuple[str, Entry]]:
        """The files of a folder and its subfolders."""
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
        """By a GET request for the file."""
        url = self._url("file", entry.name)
        return self._downloads.fetch(
            f"{url} {entry.version}",
            f"{self.title} ({entry.name})",
            limit,
            lambda offset: self._stream(url, offset),
            suffix=suffix_of(entry.name),
            size=entry.size,
        )

    def _stream(self, url: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._response(url, None, headers) as response:
            skipped = 0 if response.status_code == 206 else offset
            for chunk in response.iter_bytes():  # unbuffered: what was received is kept
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
        with self._response(url, parameters, {}) as response:
            for chunk in response.iter_bytes(CHUNK):
                body += chunk
                if len(body) > MAX_RESPONSE:
                    raise DataError(f"{self.title}: the server's response is larger than {MAX_RESPONSE} bytes")
        try:
            document = json.loads(body)
        except ValueError:
            raise Interrupted("the server's response is not JSON") from None
        if not isinstance(document, dict):
            raise Interrupted("the server's response is not a JSON object")
        return document

    @contextmanager
    def _response(
        self, url: str, parameters: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("GET", url, params=parameters, headers=headers) as response:
                status = response.status_code
                if status == 404:
                    raise NotFound(url)
                if status in (401, 402, 403):
                    raise ConfigError(
                        f"{self.title}: the server rejects the key ({status})", Reason.DATASET_ACCESS_DENIED
                    )
                if status not in (200, 206):
                    raise Interrupted(f"the server responds with {status}")
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
