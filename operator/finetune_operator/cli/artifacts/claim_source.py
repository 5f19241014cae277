"""Files on a claim, read through a pod: by exec, or where the cluster does not allow that, through the pod's log."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from finetune_operator.api.objects import Object
from finetune_operator.cli.artifacts.reader_pod import (
    BATCH_BYTES,
    END_OF_PIECE,
    MOUNT,
    Piece,
    batches,
    printing_command,
    reader_pod,
    waiting_command,
)
from finetune_operator.cli.artifacts.records import Record
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.output.printing import note
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError

START_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.5
LARGEST_BY_LOG: Final = 16 * BATCH_BYTES
"""Beyond this the log does not work: each pod carries only a batch."""


class ClaimSource:
    """A `download.Source`. A context manager that removes its pods."""

    def __init__(self, cluster: Cluster, finetune: Mapping[str, Any], run: int, claim: str, image: str | None) -> None:
        self._cluster = cluster
        self._finetune = finetune
        self._namespace = finetune["metadata"]["namespace"]
        self._claim = claim
        self._job: Mapping[str, Any] = finetune["spec"]["backend"].get("job") or {}
        pod = self._pod_of_run(run)
        self._security = pod.get("securityContext")  # the operator may leave user and group to the cluster
        self._image = image or self._job.get("image") or _image(pod)
        self._pods: list[str] = []
        self._waiting: str | None = None
        self._by_log: dict[str, Iterator[bytes]] | None = None
        self._records: list[Record] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for pod in list(self._pods):
            self._remove(pod)

    def announce(self, records: Sequence[Record]) -> None:
        """Needed by the log, which gives the files in this order."""
        self._records = list(records)

    def open(self, record: Record) -> Iterator[bytes]:
        """By exec; the first file decides whether that is possible."""
        if self._by_log is not None:
            yield from self._logged(record)
            return
        if self._waiting is None:
            self._waiting = self._start(waiting_command(), ("Running",))
        chunks = self._cluster.execute(self._namespace, self._waiting, ["cat", f"{MOUNT}/{_path(record)}"])
        try:
            first = next(chunks, b"")
        except ApiError as error:
            if error.reason == "CommandFailed":
                raise CommandError(f"{record.uri}: {error.message}", "The claim's content has changed.") from None
            self._remove(self._waiting)
            self._turn_to_logs(error)
            yield from self._logged(record)
            return
        yield first
        yield from chunks

    def _turn_to_logs(self, error: ApiError) -> None:
        remaining = sum(each.bytes or 0 for each in self._records)
        sized = all(each.bytes is not None for each in self._records)
        if not sized or remaining > LARGEST_BY_LOG:
            raise CommandError(
                f"this cluster does not let you run a command in a pod ({error.message}), and the files are too large "
                "for a log",
                "Ask for `create` on pods/exec, or for a claim of your own; or set spec.output to an s3:// address.",
            )
        note("no exec in this cluster: the files come through the log of a pod, in pieces")
        self._by_log = {}
        self._stream = self._printed(batches([(_path(each), each.bytes or 0) for each in self._records]))

    def _logged(self, record: Record) -> Iterator[bytes]:
        left = record.bytes or 0
        while True:
            piece, data = next(self._stream)
            if piece.path != _path(record) or len(data) != piece.length:
                raise CommandError(f"{record.name}: its bytes did not come through the log", "Try again.")
            yield data
            left -= len(data)
            if left <= 0:
                return

    def _printed(self, planned: Sequence[Sequence[Piece]]) -> Iterator[tuple[Piece, bytes]]:
        for batch in planned:
            pod = self._start(printing_command(batch), ("Succeeded",))
            path = f"{resources.core(self._namespace, 'pods', pod)}/log"
            found = pieces_in(self._cluster.lines(path))
            yield from zip(batch, found, strict=False)
            self._remove(pod)

    def _start(self, command: Sequence[str], until: tuple[str, ...]) -> str:
        name = f"{self._finetune['metadata']['name'][:40]}-reader-{secrets.token_hex(4)}"
        manifest = reader_pod(self._finetune, name, self._claim, str(self._image), command, self._job, self._security)
        self._cluster.create(resources.core(self._namespace, "pods"), manifest)
        self._pods.append(name)
        deadline = time.monotonic() + START_SECONDS
        while True:
            pod = self._cluster.get(resources.core(self._namespace, "pods", name))
            phase = (pod.get("status") or {}).get("phase")
            if phase in until:
                return name
            if phase in ("Failed", "Succeeded"):
                raise CommandError(
                    f"the reader pod has ended: {why(pod)}",
                    "Either the claim's content has changed, or the image lacks sh and base64: --image busybox.",
                )
            if time.monotonic() > deadline:
                raise CommandError(
                    f"the reader pod did not start within {START_SECONDS:.0f} s: {why(pod)}",
                    "Free what it waits for; where its image is at fault: --image busybox.",
                )
            time.sleep(POLL_SECONDS)

    def _remove(self, pod: str) -> None:
        self._cluster.delete(resources.core(self._namespace, "pods", pod))
        self._pods.remove(pod)

    def _pod_of_run(self, run: int) -> Mapping[str, Any]:
        """The spec of the run's pods; empty where its Job is gone, or must not be read."""
        try:
            job = self._cluster.get(resources.job(self._namespace, f"{self._finetune['metadata']['name']}-{run}"))
        except ApiError:
            return {}
        spec: Mapping[str, Any] = job["spec"]["template"]["spec"]
        return spec


def _image(pod: Mapping[str, Any]) -> str:
    if not pod:
        raise CommandError(
            "the run's Job is gone, and with it the name of its image",
            "Name an image with sh, cat and base64 for the reader pod: --image busybox.",
        )
    return str(pod["containers"][0]["image"])


def pieces_in(lines: Iterator[str]) -> Iterator[bytes]:
    """What the reader pod has printed, piece by piece. Pure. Raises CommandError for what is not base64."""
    text: list[str] = []
    for line in lines:
        if line != END_OF_PIECE:
            text.append(line)
            continue
        try:
            yield base64.b64decode("".join(text), validate=True)
        except binascii.Error:
            raise CommandError("the reader pod's log is damaged", "Try again.") from None
        text = []


def why(pod: Object) -> str:
    """What a pod says of itself. Pure."""
    status = pod.get("status") or {}
    said = [
        f"{state.get('reason') or ''} {state.get('message') or ''}".strip()
        for container in status.get("containerStatuses") or ()
        for state in (container.get("state") or {}).values()
    ]
    said += [
        str(each.get("message"))
        for each in status.get("conditions") or ()
        if each["status"] != "True" and each.get("message")
    ]
    return "; ".join(word for word in said if word) or str(status.get("phase") or "no word of the node yet")


def _path(record: Record) -> str:
    """Below the claim."""
    path = record.uri.removeprefix("pvc://").partition("/")[2]
    if not path or ".." in path.split("/"):
        raise CommandError(f"{record.uri} names no file on a claim", "Leave it out: --only with the names of others.")
    return path
