"""Which source gives which artifact, by the scheme of its address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from finetune_operator.cli.artifacts.records import Record
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kube.cluster import Cluster


class Sources:
    """A `download.Source` for every scheme. A context manager: what it starts in the cluster it removes."""

    def __init__(self, cluster: Cluster, finetune: Mapping[str, Any], run: int, image: str | None) -> None:
        self._cluster = cluster
        self._finetune = finetune
        self._run = run
        self._image = image
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def announce(self, records: Sequence[Record]) -> None:
        """Raises CommandError where one of them cannot be had."""
        for record in records:
            self._source(record)
        for key, source in self._open.items():
            source.announce([record for record in records if _key(record) == key])

    def open(self, record: Record) -> Iterator[bytes]:
        """Its bytes."""
        opened: Iterator[bytes] = self._source(record).open(record)
        return opened

    def _source(self, record: Record) -> Any:
        key = _key(record)
        if key not in self._open:
            self._open[key] = self._made(record)
        return self._open[key]

    def _made(self, record: Record) -> Any:
        if record.scheme == "pvc":
            from finetune_operator.cli.artifacts.claim_source import ClaimSource

            return self._stack.enter_context(
                ClaimSource(self._cluster, self._finetune, self._run, _claim(record), self._image)
            )
        if record.scheme in ("s3", "hf"):
            from finetune_operator.cli.artifacts.remote_source import HubSource, S3Source, credentials

            found = credentials(self._cluster, self._finetune, record.scheme)
            return S3Source(found) if record.scheme == "s3" else HubSource(found)
        raise CommandError(
            f"{record.name} is at the provider: {record.uri}",
            "Take it from there; with spec.output the operator brings the next run's weights to s3:// or hf://.",
        )


def _key(record: Record) -> str:
    return f"pvc://{_claim(record)}" if record.scheme == "pvc" else record.scheme


def _claim(record: Record) -> str:
    return record.uri.removeprefix("pvc://").partition("/")[0]
