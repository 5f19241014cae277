"""What a coroutine of a provider is given for one call."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_operator.backends.transfer.kept import Kept
from finetune_operator.backends.transfer.spool import Disk

if TYPE_CHECKING:
    from finetune_operator.backends.http.api import Api
    from finetune_operator.backends.http.fetcher import Fetcher
    from finetune_operator.backends.provider_run import PollResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What a coroutine may use for one call."""

    api: Api
    """The provider's API: base URL, credentials and bounds are set."""
    fetcher: Fetcher
    """Guarded client for URLs that users or providers name (datasets, presigned URLs, downloads); no credentials."""
    credentials: Mapping[str, str]
    """The decoded Secret of the backend; already in `api`'s headers."""
    dataset_credentials: Mapping[str, str]
    output_credentials: Mapping[str, str]
    spool: Path
    """An empty folder of this call's own, removed afterwards."""
    now: datetime
    last_poll: PollResult | None = None
    """What the last poll of this run has seen; None where this process has made none yet."""
    cache: MutableMapping[tuple[str, ...], str] = field(default_factory=dict)
    """Of this provider, for all its runs: what saves a request, and may be lost at any moment."""
    disk: Disk = field(default_factory=Disk)
    """The operator's one budget for all spools."""
    kept: Kept = field(default_factory=lambda: Kept(Disk()))
    """What a call may leave for the run's next one."""
