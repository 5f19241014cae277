"""`output.uri`: checked before training, written after. Another scheme is one entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from finetune_trainer.environment import OutputAccess
from finetune_trainer.errors import ConfigError, RunError
from finetune_trainer.outputs.claim import ClaimFolder
from finetune_trainer.stop import interruptible

PATIENCE_S: Final = 300.0
PATIENCE_WITHOUT_STORAGE_S: Final = 3600.0
"""Where the result is lost with the pod, another hour of trying is cheaper than another training."""


class Destination(Protocol):
    """A place for results."""

    def check(self) -> None:
        """Before training. Raises ConfigError if the result could not be put there, RunError to try again."""

    def publish(self, output: Path) -> None:
        """Write the finished output folder. Raises RunError(ArtifactUploadFailed)."""


def check_destination(
    uri: str, access: OutputAccess, check: Callable[[], None] = lambda: None, title: str = "a FineTune"
) -> Destination:
    """The place behind `output.uri`, tried out. check: called often; raises to stop. title: whose result it is."""
    scheme = uri.partition("://")[0]
    opener = SCHEMES.get(scheme)
    if opener is None:
        raise ConfigError(f"results cannot be written to {scheme}:// by this trainer; it writes {', '.join(SCHEMES)}")
    destination = opener(uri, access, check, title)
    interruptible(destination.check, check)
    return destination


def publish(output: Path, destination: Destination, kept: str | None) -> None:
    """Bring the output there. Raises RunError that says where the result is `kept` meanwhile, if it is."""
    try:
        destination.publish(output)
    except RunError as error:
        more = f"; it is kept at {kept}, and another attempt only uploads it" if kept else ""
        raise RunError(f"{error.message}{more}", error.reason) from None


def _patience(access: OutputAccess) -> float:
    return PATIENCE_S if access.durable else PATIENCE_WITHOUT_STORAGE_S


def _claim(uri: str, access: OutputAccess, _check: Callable[[], None], _title: str) -> Destination:
    return ClaimFolder(uri, access.claims.path(uri))


def _s3(uri: str, access: OutputAccess, check: Callable[[], None], _title: str) -> Destination:
    from finetune_trainer.outputs.s3 import S3Folder

    return S3Folder(uri, access.secret, check, _patience(access))


def _hub(uri: str, access: OutputAccess, check: Callable[[], None], title: str) -> Destination:
    from finetune_trainer.outputs.hub import HubRepository

    return HubRepository(uri, access.secret, check, _patience(access), f"Add the result of {title}")


SCHEMES: Final[dict[str, Callable[[str, OutputAccess, Callable[[], None], str], Destination]]] = {
    "pvc": _claim,
    "s3": _s3,
    "hf": _hub,
}
