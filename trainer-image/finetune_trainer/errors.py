"""How a run fails: a reason for the status, a message for the user, and the exit code of the contract."""

from enum import StrEnum

from finetune_operator.api.reasons import Reason
from finetune_operator.api.trainer_config import ExitCode

EXIT_FAILED = 1
"""An exit code that the contract does not name: the run may be retried."""


class TrainerReason(StrEnum):
    """Reasons that only the trainer gives, beside those of the resource (`finetune_operator.api.reasons`)."""

    TRAINER_FAILED = "TrainerFailed"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    STORAGE_FAILED = "StorageFailed"
    RANK_LOST = "RankLost"
    """A process failed only because another process of its pod did."""


AnyReason = Reason | TrainerReason


class RunError(Exception):
    """A failure with a reason and a message that a user can act on. A RunError of this very class may be retried."""

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, reason: AnyReason = TrainerReason.TRAINER_FAILED) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ConfigError(RunError):
    """The configuration, the base model or the output location is wrong: a retry would fail the same way."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, message: str, reason: AnyReason = Reason.INVALID_CONFIG) -> None:
        super().__init__(message, reason)


class DataError(RunError):
    """The dataset is wrong: a retry would fail the same way."""

    exit_code = ExitCode.BAD_DATA

    def __init__(self, message: str, reason: AnyReason = Reason.DATA_VALIDATION_FAILED) -> None:
        super().__init__(message, reason)


class RankLost(RunError):
    """Another process of this pod has ended, and this one cannot continue alone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, TrainerReason.RANK_LOST)


class OutOfMemory(RunError):
    """The device has too little memory, even with every fallback in use."""

    exit_code = ExitCode.OUT_OF_MEMORY

    def __init__(self, message: str) -> None:
        super().__init__(message, Reason.OUT_OF_MEMORY)
