"""Datasets at hf://datasets/org/name[@revision][/path]: a file or folder of a repository, at a fixed commit.

The Hub's client keeps files in its own cache (HF_HOME on the cache volume), with resumption and locks. The files of a
commit never change, so that a cached file is not requested again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from finetune_operator.api.reasons import Reason
from finetune_trainer.data.downloads import ATTEMPTS, TooLarge, Unreachable
from finetune_trainer.data.remote import MAX_FILES, Entry, NotFound, checked_listing
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.stop import interruptible
from finetune_trainer.stores import hub

REASONS: Final = (Reason.DATASET_UNAVAILABLE, Reason.DATASET_ACCESS_DENIED)
_T = TypeVar("_T")


class HubDataset:
    """A `Remote` on the Hub. file: name of the file, if the URI names a single file."""

    def __init__(
        self,
        uri: str,
        file: str | None,
        secret: Mapping[str, str],
        cache: Path,
        check: Callable[[], None],
        backoff_s: float = 0.5,
    ) -> None:
        self._repository = hub.repository_of(uri, "datasets")
        self.title, self.file = str(self._repository), file
        path = self._repository.path
        self._folder = "/".join(PurePosixPath(path).parts[:-1]) if file else path
        self._api, self._cache, self._check, self._backoff_s = hub.client(secret), cache, check, backoff_s
        self._commit = ""

    def entries(self) -> Mapping[str, Entry]:
        """Fixes the commit, then gets the size of the file, or lists the folder."""
        try:
            info = self._with_retries(
                lambda: self._api.repo_info(
                    self._repository.id, repo_type="dataset", revision=self._repository.revision
                )
            )
            self._commit = str(info.sha)
            if self.file:
                return {self.file: Entry(self.file, self._commit, self._size(self.file))}
            return checked_listing(self._with_retries(self._listing), self.title)
        except hub.NotFound as error:
            raise DataError(str(error), Reason.DATASET_NOT_FOUND) from None

    def _listing(self) -> dict[str, Entry]:
        from huggingface_hub.hf_api import RepoFile

        start = f"{self._folder}/" if self._folder else ""
        found: dict[str, Entry] = {}
        for each in self._api.list_repo_tree(
            self._repository.id,
            self._folder or None,
            recursive=True,
            revision=self._commit,
            repo_type="dataset",
        ):
            self._check()
            if isinstance(each, RepoFile) and each.path.startswith(start):
                name = each.path.removeprefix(start)
                found[name] = Entry(name, f"{self._commit} {each.blob_id}", each.size)
            if len(found) > MAX_FILES:
                break
        return found

    def fetch(self, entry: Entry, limit: int) -> Path:
        """From the client's cache, or downloaded into it."""
        from huggingface_hub import try_to_load_from_cache

        name = f"{self._folder}/{entry.name}".lstrip("/")
        cached = try_to_load_from_cache(
            self._repository.id, name, cache_dir=self._cache, revision=self._commit, repo_type="dataset"
        )
        if isinstance(cached, str):
            return Path(cached)
        try:
            size = entry.size if entry.size is not None else self._size(entry.name)
            if size is not None and size > limit:
                raise TooLarge(f"{self.title} {entry.name} has {size} bytes, more than {limit}")
            download = partial(
                self._api.hf_hub_download,
                self._repository.id,
                name,
                repo_type="dataset",
                revision=self._commit,
                cache_dir=self._cache,
            )
            return Path(self._with_retries(lambda: interruptible(download, self._check)))
        except hub.NotFound:
            raise NotFound(entry.name) from None

    def _size(self, name: str) -> int | None:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(
            self._repository.id,
            f"{self._folder}/{name}".lstrip("/"),
            repo_type="dataset",
            revision=self._commit,
            endpoint=self._api.endpoint,
        )
        metadata: Any = self._with_retries(lambda: self._api.get_hf_file_metadata(url=url))
        return None if metadata.size is None else int(metadata.size)

    def _with_retries(self, call: Callable[[], _T]) -> _T:
        """Call a function, with retries. Raises hub.NotFound, ConfigError, Unreachable."""
        for attempt in range(1, ATTEMPTS + 1):
            self._check()
            try:
                with hub.translated_errors(f"the dataset {self.title}", *REASONS):
                    return call()
            except ConfigError:
                raise
            except RunError as error:
                if attempt == ATTEMPTS:
                    raise Unreachable(error.message) from None
                time.sleep(self._backoff_s * 2**attempt)
        raise AssertionError
