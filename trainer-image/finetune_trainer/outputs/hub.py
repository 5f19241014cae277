"""A result at hf://org/name[@branch][/path]: one commit of a model repository, which is made (private) if need be.

The hub's client sends no file whose digest the hub has, and makes no commit without a change: another attempt costs
next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.files import MANIFEST
from finetune_trainer.outputs.uploads import files_named_by, persistently, stale, uploads_of
from finetune_trainer.reporting.progress import say
from finetune_trainer.stores import hub

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

MAIN: Final = "main"


class HubRepository:
    """hf://org/name. summary: of the commit. patience_s: for how long an upload is tried."""

    def __init__(
        self, uri: str, secret: Mapping[str, str], check: Callable[[], None], patience_s: float, summary: str
    ) -> None:
        self._repository = hub.repository_of(uri, "models")
        self._api, self._check, self._patience_s, self._summary = hub.client(secret), check, patience_s, summary

    def check(self) -> None:
        """The repository is there, or is made; the token may write to it, as far as the hub tells."""
        try:
            self._make()
            self._check_writable()
        except hub.NotThere as error:
            raise ConfigError(str(error), Reason.ARTIFACT_UPLOAD_FAILED) from None

    def _make(self) -> None:
        id_, branch = self._repository.id, self._repository.revision
        try:
            with self._answers():
                self._api.repo_info(id_, repo_type="model")
        except hub.NotThere:
            with self._answers():
                self._api.create_repo(id_, repo_type="model", private=True, exist_ok=True)
        if branch != MAIN:
            with self._answers():
                self._api.create_branch(id_, branch=branch, repo_type="model", exist_ok=True)

    def _check_writable(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        with self._answers():
            try:
                self._api.auth_check(self._repository.id, repo_type="model", write=True)
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code not in (404, 405, 501):
                    raise  # a mirror need not know this call

    def publish(self, output: Path) -> None:
        """Everything in one commit, without what an earlier result had beside it."""
        persistently(str(self._repository), lambda: self._commit(output), self._check, self._patience_s)

    def _commit(self, output: Path) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        uploads = uploads_of(output)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(self._below(upload.name), upload.path) for upload in uploads
        ]
        try:
            with self._answers():
                there = self._there()
                operations += [
                    CommitOperationDelete(self._below(name))
                    for name in stale(self._earlier(there), uploads)
                    if self._below(name) in there
                ]
                done = self._api.create_commit(
                    self._repository.id,
                    operations,
                    commit_message=self._summary,
                    repo_type="model",
                    revision=self._repository.revision,
                )
        except hub.NotThere as error:
            raise RunError(str(error), Reason.ARTIFACT_UPLOAD_FAILED) from None
        say("upload", repository=str(self._repository), files=len(uploads), commit=done.oid)

    def _there(self) -> set[str]:
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

    def _earlier(self, there: set[str]) -> dict[str, str]:
        name = self._below(MANIFEST)
        if name not in there:
            return {}
        path = self._api.hf_hub_download(
            self._repository.id, name, repo_type="model", revision=self._repository.revision
        )
        return files_named_by(Path(path).read_bytes())

    def _below(self, name: str) -> str:
        return f"{self._repository.path}/{name}".lstrip("/")

    def _answers(self) -> AbstractContextManager[None]:
        return hub.answers(
            f"the model {self._repository}", Reason.ARTIFACT_UPLOAD_FAILED, Reason.ARTIFACT_UPLOAD_FAILED
        )
