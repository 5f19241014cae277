"""The pod that reads files from a claim. Pure.

It has the run's own image (which the node has already), tolerations and node selector, mounts the claim read-only and
fits the `restricted` pod security standard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from finetune_operator.api.names import API_VERSION, KIND, MANAGED_BY_LABEL
from finetune_operator.backends.job.manifest import TRAINER_UID, security_context

MOUNT: Final = "/finetune/read"
CONTAINER: Final = "reader"
LIFETIME_SECONDS: Final = 3600
BATCH_BYTES: Final = 4 * 2**20
"""What one pod's log carries: as base64 with the runtime's own marks it stays below the 10 MiB at which a kubelet
begins a new log file."""
END_OF_PIECE: Final = "."
_WAIT: Final = f"sleep {LIFETIME_SECONDS}"
# head ends before tail has written all: where nothing ends a program on SIGPIPE, tail would complain into the log.
_PRINT: Final = (
    'while [ $# -gt 0 ]; do [ -r "$1" ] || { echo "$1 cannot be read"; exit 1; }; '
    'tail -c "+$(($2 + 1))" "$1" 2>/dev/null | head -c "$3" | base64 || exit 1; '
    f'echo "{END_OF_PIECE}"; shift 3; done'
)


class Piece(NamedTuple):
    """Bytes of a file: its path below the claim, where they begin, how many."""

    path: str
    offset: int
    length: int


def waiting_command() -> list[str]:
    """Stays, so that files can be read by exec."""
    return ["sh", "-c", _WAIT]


def printing_command(pieces: Sequence[Piece]) -> list[str]:
    """Writes the pieces to the log, as base64."""
    words = [word for piece in pieces for word in (f"{MOUNT}/{piece.path}", str(piece.offset), str(piece.length))]
    return ["sh", "-c", _PRINT, CONTAINER, *words]


def batches(files: Sequence[tuple[str, int]]) -> list[list[Piece]]:
    """(path, size) in order -> what each pod prints, at most BATCH_BYTES."""
    made: list[list[Piece]] = []
    room = 0
    for path, size in files:
        offset = 0
        while offset < size or size == offset == 0:
            if room <= 0:
                made.append([])
                room = BATCH_BYTES
            length = min(room, size - offset)
            made[-1].append(Piece(path, offset, length))
            offset, room = offset + length, room - length
            if size == 0:
                break
    return made


def reader_pod(
    finetune: Mapping[str, Any],
    name: str,
    claim: str,
    image: str,
    command: Sequence[str],
    job: Mapping[str, Any],
    security: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`job`: backend.job of the spec; empty for an upstream run. `security`: of the run's own pods, where known."""
    metadata = finetune["metadata"]
    placement = ("nodeSelector", "tolerations", "affinity", "imagePullSecrets", "serviceAccountName")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": {MANAGED_BY_LABEL: "kubectl-finetune"},
            "ownerReferences": [
                {"apiVersion": API_VERSION, "kind": KIND, "name": metadata["name"], "uid": metadata["uid"]}
            ],
        },
        "spec": {
            **{field: job[field] for field in placement if field in job},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": security or security_context(TRAINER_UID),
            "containers": [_container(image, command)],
            "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }


def _container(image: str, command: Sequence[str]) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": list(command),
        "volumeMounts": [{"name": "claim", "mountPath": MOUNT, "readOnly": True}],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
