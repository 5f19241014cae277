"""A fault of the trainer's own while it handles a row: a sentence for the user, and the details for the log."""

from __future__ import annotations

import traceback
from typing import Final

from finetune_trainer.errors import RunError
from finetune_trainer.reporting.progress import print_line
from finetune_trainer.reporting.redact import redact

SENTENCE: Final = "the trainer failed on this row, and its log says where: leave the row out, and report it"

_logged: set[str] = set()


def fault(error: Exception) -> str:
    """What a row is refused with after an unexpected error. Raises the error again where it is not the row's."""
    if isinstance(error, RunError | MemoryError | OSError) or type(error).__name__ == "OutOfMemoryError":
        raise error
    details = redact("".join(traceback.format_exception(error)))
    if details not in _logged:
        _logged.add(details)
        print_line(details)
    return SENTENCE
