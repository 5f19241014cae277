"""A result at hf://org/name[@branch][/path]: one commit to a model repository, which is created (private) if needed.

The client sends no file that the Hub has already, and makes no commit without a change: a retry costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST
from finetune_trainer.outputs.uploads import files_in_manifest, stale, uploads_of, with_retries
from finetune_trainer.reporting.progress import emit
from finetune_trainer.stores import hub

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

MAIN: Final = "main"


class HubRepository:
    """The destination hf://org/name. retry_for_s: how long an upload is retried. summary: of the commit."""

    def __init__(
        self, uri: str, secret: Mapping[str, str], check: Callable[[], None], retry_for_s: float, summary: str
    ) -> None:
        self._repository = hub.repository_of(uri, "models")
        self._api, self._check, self._retry_for_s, self._summary = hub.client(secret), check, retry_for_s, summary

    def check(self) -> None:
        """Create the repository and branch if needed. Raises ConfigError if the token may not write to them."""
        try:
            self._create()
            self._check_writable()
        except hub.NotFound as error:
            raise ConfigError(str(error), Reason.ARTIFACT_UPLOAD_FAILED) from None

    def _create(self) -> None:
        id_, branch = self._repository.id, self._repository.revision
        try:
            with self._errors():
                self._api.repo_info(id_, repo_type="model")
        except hub.NotFound:
            with self._errors():
                self._api.create_repo(id_, repo_type="model", private=True, exist_ok=True)
        if branch != MAIN:
            with self._errors():
                self._api.create_branch(id_, branch=branch, repo_type="model", exist_ok=True)

    def _check_writable(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        with self._errors():
            try:
                self._api.auth_check(self._repository.id, repo_type="model", write=True)
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code not in (404, 405, 501):
                    raise  # a mirror may not support this call

    def publish(self, output: Path) -> None:
        """Commit every file, and delete those that only an earlier result had."""
        with_retries(str(self._repository), lambda: self._commit(output), self._check, self._retry_for_s)

    def _commit(self, output: Path) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        uploads = uploads_of(output)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(self._below(upload.name), upload.path) for upload in uploads
        ]
        try:
            with self._errors():
                existing = self._existing()
                operations += [
                    CommitOperationDelete(self._below(name))
                    for name in stale(self._earlier(existing), uploads)
                    if self._below(name) in existing
                ]
                done = self._api.create_commit(
                    self._repository.id,
                    operations,
                    commit_message=self._summary,
                    repo_type="model",
                    revision=self._repository.revision,
                )
        except hub.NotFound as error:
            raise RunError(str(error), Reason.ARTIFACT_UPLOAD_FAILED) from None
        emit("upload", repository=str(self._repository), files=len(uploads), commit=done.oid)

    def _existing(self) -> set[str]:
        from huggingface_hub.errors import EntryNotFoundError

        try:
            tree = self._api.list_repo_tree(
                self._repository.id,
                self._repository.path or None,
                recursive=True,
                revision=self._repository.revision,
                repo_type="model",
            )
            return {each.path for each in tree}
        except EntryNotFoundError:
            return set()

    def _earlier(self, existing: set[str]) -> dict[str, str]:
        name = self._below(MANIFEST)
        if name not in existing:
            return {}
        path = self._api.hf_hub_download(
            self._repository.id, name, repo_type="model", revision=self._repository.revision
        )
        return files_in_manifest(Path(path).read_bytes())

    def _below(self, name: str) -> str:
        return f"{self._repository.path}/{name}".lstrip("/")

    def _errors(self) -> AbstractContextManager[None]:
        return hub.translated_errors(
            f"the model {self._repository}", Reason.ARTIFACT_UPLOAD_FAILED, Reason.ARTIFACT_UPLOAD_FAILED
        )
