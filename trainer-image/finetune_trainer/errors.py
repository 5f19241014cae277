"""How a run fails: a reason for the status, a message for the user, and the exit code of the contract."""

from finetune_operator.api.trainer_config import ExitCode

EXIT_FAILED = 1
"""Any code that the contract does not name may be retried."""


RANK_LOST = "RankLost"
"""The reason of a process that failed only because another one of its pod did."""


class RunError(Exception):
    """A failure with a reason (CamelCase) and a message that a user can act on. This class itself may be retried."""

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, reason: str = "TrainerFailed") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ConfigError(RunError):
    """The configuration, the model folder or the output place is wrong: trying again gives the same."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, message: str, reason: str = "InvalidConfig") -> None:
        super().__init__(message, reason)


class DataError(RunError):
    """The dataset is wrong: trying again gives the same."""

    exit_code = ExitCode.BAD_DATA

    def __init__(self, message: str, reason: str = "DataValidationFailed") -> None:
        super().__init__(message, reason)


class RankLost(RunError):
    """Another process of this pod has ended, and this one cannot go on alone."""

    def __init__(self, message: str) -> None:
        super().__init__(message, RANK_LOST)


class OutOfMemory(RunError):
    """The device is too small, also after the fallbacks of this process."""

    exit_code = ExitCode.OUT_OF_MEMORY

    def __init__(self, message: str) -> None:
        super().__init__(message, "OutOfMemory")
