"""`output.uri`: checked before training, written after it. A scheme is one entry of `SCHEMES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from finetune_trainer.environment import OutputAccess
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.outputs.claim import ClaimFolder
from finetune_trainer.stop import interruptible

RETRY_FOR_S: Final = 300.0
RETRY_WITHOUT_STORAGE_FOR_S: Final = 3600.0
"""Where the result is lost with the pod, an hour of retries is cheaper than training again."""


class Destination(Protocol):
    """A location for results."""

    def check(self) -> None:
        """Raise ConfigError if a result cannot be written here, or RunError where a retry may help."""

    def publish(self, output: Path) -> None:
        """Write a complete output folder. Raises RunError(ArtifactUploadFailed)."""


def check_destination(
    uri: str, access: OutputAccess, check: Callable[[], None] = lambda: None, title: str = "a FineTune"
) -> Destination:
    """The destination of `output.uri`, checked before training.

    check: called often; raises Preempted to stop. title: of the run, for a commit message. Raises ConfigError,
    RunError.
    """
    scheme = uri.partition("://")[0]
    opener = SCHEMES.get(scheme)
    if opener is None:
        raise ConfigError(f"results cannot be written to {scheme}://; the trainer supports {', '.join(SCHEMES)}")
    destination = opener(uri, access, check, title)
    interruptible(destination.check, check)
    return destination


def publish(output: Path, destination: Destination, kept: str | None) -> None:
    """Write the output to its destination. kept: URI of the run's own copy, for the message of a RunError."""
    try:
        destination.publish(output)
    except RunError as error:
        more = f"; it is kept at {kept}, and a retry only uploads it" if kept else ""
        raise RunError(f"{error.message}{more}", error.reason) from None


def _retry_for_s(access: OutputAccess) -> float:
    return RETRY_FOR_S if access.durable else RETRY_WITHOUT_STORAGE_FOR_S


def _claim(uri: str, access: OutputAccess, _check: Callable[[], None], _title: str) -> Destination:
    return ClaimFolder(uri, access.claims.path(uri))


def _s3(uri: str, access: OutputAccess, check: Callable[[], None], _title: str) -> Destination:
    from finetune_trainer.outputs.s3 import S3Folder

    return S3Folder(uri, access.secret, check, _retry_for_s(access))


def _hub(uri: str, access: OutputAccess, check: Callable[[], None], title: str) -> Destination:
    from finetune_trainer.outputs.hub import HubRepository

    return HubRepository(uri, access.secret, check, _retry_for_s(access), f"Add the result of {title}")


SCHEMES: Final[dict[str, Callable[[str, OutputAccess, Callable[[], None], str], Destination]]] = {
    "pvc": _claim,
    "s3": _s3,
    "hf": _hub,
}
