"""The calls to providers: in the background, one in flight per FineTune, a few per provider, shared by namespaces.

A worker never waits here. When a call ends, what it taught is kept in memory and the FineTune's key is queued again: at
once, or, where a poll has seen what the poll before it saw, when the next one is due. Most polls are of that kind.
Memory is lost at a restart, and nothing depends on it: the status says what may have been begun.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import (
    Failure,
    FailureKind,
    Transient,
    UpstreamError,
    failure_of,
)
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.client import Client
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.http.redact import Redactor
from finetune_operator.backends.places import Holder, Places
from finetune_operator.backends.provider_run import Capabilities, Outcome, PollResult, Step, UpstreamRun
from finetune_operator.backends.providers.base_urls import base_url_of
from finetune_operator.backends.providers.calls import make_call
from finetune_operator.backends.providers.protocol import Upstream, capabilities_of, explanation_of
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.kept import Kept
from finetune_operator.backends.transfer.spool import Disk
from finetune_operator.controller.model import CallResult, Key, Transfer, UpstreamView
from finetune_operator.controller.upstream.credentials import Credentials, SecretMissing
from finetune_operator.controller.upstream.preflight import objection
from finetune_operator.controller.upstream.way_out import with_way_out
from finetune_operator.kube.errors import ApiError, NotFound

logger = logging.getLogger(__name__)

HEAVY = (Step.PREPARE, Step.CREATE, Step.EQUIP, Step.FETCH)
"""Steps that may move data: they take long, and disk."""
HEAVY_PER_PROVIDER = 3
HEAVY_OF_ONE = 2
"""Of those, for one namespace."""
BILLED = (Step.CREATE, Step.START)
STOPPING = (Step.FIND, Step.CANCEL, Step.DELETE)
"""Steps that a run needs to be stopped."""
CACHED = 50_000
"""Texts of a few hundred bytes, of each provider."""


@dataclass(slots=True)
class _Memory:
    run: int
    results: dict[Step, CallResult] = field(default_factory=dict)
    poll_result: PollResult | None = None
    polled_at: datetime | None = None
    claimed: str | None = None
    step: Step | None = None
    task: asyncio.Task[None] | None = None
    holder: Holder | None = None
    credentials: dict[str, str] = field(default_factory=dict)
    """The provider's, as they were last read: for stopping a run whose Secret is gone, as in a dying namespace."""
    awaited: bool = False
    """Somebody has looked while the call was in flight, and may wait for its end."""

    def view(self) -> UpstreamView:
        return UpstreamView(
            in_flight=self.step,
            results=dict(self.results),
            poll_result=self.poll_result,
            polled_at=self.polled_at,
            claimed=self.claimed,
            transfer=_transfer(self.holder) if self.step in HEAVY else None,
        )

    def knows(self, outcome: Outcome | None) -> bool:
        """Whether the last call was a poll too, and saw this."""
        last = self.view().last
        return last is not None and last.step is Step.POLL and last.failure is None and last.outcome == outcome


class Runner:
    """Makes the calls.

    `notify` hears the key of each that has ended; `notify_later` hears it instead, with the seconds to wait, where that
    has taught nothing; `live` reads a FineTune (namespace, name) from the API server, before each billed call; `count`
    hears (provider, step, status, seconds): 200 where it went well, 0 where nobody answered.
    """

    def __init__(
        self,
        members: Mapping[str, Upstream],
        client: Client,
        credentials: Credentials,
        *,
        allowed: frozenset[str],
        per_provider: int,
        notify: Callable[[Key], None],
        notify_later: Callable[[Key, float], None],
        live: Callable[[str, str], Awaitable[Mapping[str, Any]]],
        clock: Callable[[], datetime],
        count: Callable[[str, str, int, float], None] = lambda *_: None,
        disk: Disk | None = None,
        spool_dir: str | None = None,
    ) -> None:
        self.members = members
        self._client = client
        self._credentials = credentials
        self._allowed = allowed
        self._per_provider = per_provider
        self._notify = notify
        self._notify_later = notify_later
        self._live = live
        self._clock = clock
        self._count = count
        self._disk = disk or Disk()
        self._kept = Kept(self._disk, spool_dir)
        self._spool_dir = spool_dir
        self._nowhere = Path(spool_dir or tempfile.gettempdir(), "finetune-nothing")
        self._memories: dict[str, _Memory] = {}
        self._caches: dict[str, LRUCache[tuple[str, ...], str]] = {}
        self._slots: dict[tuple[str, Step], Places] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def view(self, uid: str, run: int) -> UpstreamView:
        """What is known of this run of the FineTune of this uid."""
        memory = self._memories.get(uid)
        if memory is None or memory.run != run:
            return UpstreamView()
        memory.awaited = memory.task is not None
        return memory.view()

    def claim(self, uid: str, run: int, attempt: str) -> None:
        """The attempt has been recorded by this process: the next billed call may be made, once."""
        self._memory(uid, run).claimed = attempt

    def begin(self, run: UpstreamRun, step: Step, rest: float | None = None) -> None:
        """Make a call, instead of a harmless one that is in flight. Nothing where a billed one is. `rest`: see Call."""
        memory = self._memory(run.uid, run.run)
        if memory.task is not None:
            if memory.step in BILLED:
                return
            memory.task.cancel()
        if step in BILLED:
            memory.claimed = None
        memory.step, memory.awaited, memory.holder = step, False, Holder(run.namespace)
        memory.task = asyncio.create_task(
            self._make(memory, run, step, rest, memory.holder), name=f"{run.namespace}/{run.name} {step}"
        )
        self._tasks.add(memory.task)
        memory.task.add_done_callback(self._tasks.discard)

    def forget(self, uid: str) -> None:
        """The FineTune is gone."""
        self._kept.drop(uid)
        memory = self._memories.pop(uid, None)
        if memory is not None and memory.task is not None:
            memory.task.cancel()

    async def close(self) -> None:
        """Break everything off."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.close()

    @property
    def in_flight(self) -> int:
        """Calls that are being made or wait for their turn."""
        return len(self._tasks)

    def _memory(self, uid: str, run: int) -> _Memory:
        memory = self._memories.get(uid)
        if memory is None or memory.run != run:
            self.forget(uid)
            memory = self._memories[uid] = _Memory(run)
        return memory

    async def _make(self, memory: _Memory, run: UpstreamRun, step: Step, rest: float | None, holder: Holder) -> None:
        provider = run.provider
        outcome, failure = None, None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._slot(provider, run, step).place(holder):
                started = loop.time()
                outcome = await self._carry_out(self.members[provider], run, step, memory, holder)
        except UpstreamError as error:
            failure = failure_of(error)
        except ApiError as error:
            failure = Failure(kind=FailureKind.TRANSIENT, reason=Reason.CREDENTIALS_UNREADABLE, message=error.message)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A mistake of ours or a surprise of theirs: it must not be repeated blindly either.
            logger.exception("%s/%s: %s", run.namespace, run.name, step)
            failure = Failure(kind=FailureKind.AMBIGUOUS, reason="InternalError", message=type(error).__name__)
        if memory.task is not asyncio.current_task():
            return
        nothing_new = failure is None and memory.knows(outcome) and not memory.awaited
        self._end(memory, step, outcome, failure)
        self._count(provider, step, failure.status if failure else 200, loop.time() - started)
        if self._memories.get(run.uid) is not memory:
            return
        key = Key(run.namespace, run.name)
        if rest is not None and nothing_new:
            self._notify_later(key, rest)
        else:
            self._notify(key)

    def _end(self, memory: _Memory, step: Step, outcome: Outcome | None, failure: Failure | None) -> None:
        now = self._clock()
        before = memory.results.get(step)
        failures = (before.failures if before else 0) + 1 if failure else 0
        memory.results[step] = CallResult(step=step, time=now, outcome=outcome, failure=failure, failures=failures)
        if isinstance(outcome, PollResult):
            memory.poll_result, memory.polled_at = outcome, now
        memory.step, memory.task, memory.holder = None, None, None

    def _slot(self, provider: str, run: UpstreamRun, step: Step) -> Places:
        """Looks, creates and the rest of the heavy ones do not wait for each other: where every create hangs, a crowd
        that has nothing to prepare would else get its turn, and write its status, in one moment between two of them.
        """
        origin = f"{provider} {run.backend.base_url or ''}"
        lane = Step.CREATE if step is Step.CREATE else Step.PREPARE if step in HEAVY else Step.POLL
        if (origin, lane) not in self._slots:
            long = Places(HEAVY_PER_PROVIDER, HEAVY_OF_ONE)
            self._slots[origin, lane] = Places(self._per_provider) if lane is Step.POLL else long
        return self._slots[origin, lane]

    async def _carry_out(
        self, member: Upstream, run: UpstreamRun, step: Step, memory: _Memory, holder: Holder
    ) -> Outcome | None:
        capabilities = capabilities_of(member)
        base_url = base_url_of(run.backend, capabilities, self._allowed)
        own = await self._own_credentials(run, capabilities, step, memory)
        try:
            dataset, output = await self._credentials.places(run) if step in HEAVY else ({}, {})
        except SecretMissing as error:
            raise error.failure from None
        if step in BILLED:
            await self._confirm(run, step)

        def told(error: UpstreamError) -> str:
            return with_way_out(error, run, capabilities, own=own, dataset=dataset, output=output)

        try:
            headers = member.headers(own)
        except UpstreamError as error:
            raise _reworded(error, told(error)) from None
        redact = Redactor([*own.values(), *dataset.values(), *output.values(), *map(_value, headers.values())])
        explain = explanation_of(member)
        api = Api(self._client, capabilities.title, base_url, headers, redact=redact, explain=explain, holder=holder)
        with self._spool() if step in HEAVY else nullcontext(self._nowhere) as spool:
            context = CallContext(
                api=api,
                fetcher=Fetcher(self._client, redact, holder),
                credentials=own,
                dataset_credentials=dataset,
                output_credentials=output,
                spool=spool,
                now=self._clock(),
                last_poll=memory.poll_result,
                cache=self._caches.setdefault(run.provider, LRUCache(CACHED)),
                disk=self._disk.held_by(holder),
                kept=self._kept,
            )
            try:
                return await make_call(member, step, run, context)
            except UpstreamError as error:
                raise _reworded(error, redact(told(error))) from None

    async def _own_credentials(
        self, run: UpstreamRun, capabilities: Capabilities, step: Step, memory: _Memory
    ) -> dict[str, str]:
        """Raises Blocked, or ApiError; not where the run is only to be stopped, and they were known before."""
        try:
            memory.credentials = await self._credentials.provider(run, capabilities)
        except (SecretMissing, ApiError) as error:
            if step in STOPPING and memory.credentials:
                return memory.credentials
            if isinstance(error, SecretMissing):
                raise error.failure from None
            raise
        return memory.credentials

    @contextmanager
    def _spool(self) -> Iterator[Path]:
        """A folder for a call that may move data."""
        folder = Path(tempfile.mkdtemp(prefix="finetune-", dir=self._spool_dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _confirm(self, run: UpstreamRun, step: Step) -> None:
        """The call has waited for its turn: what was written then must still be what is there. Raises Transient."""
        try:
            reason = objection(await self._live(run.namespace, run.name), run, step)
        except NotFound:
            reason = "the FineTune is gone"
        if reason is not None:
            raise Transient(f"not sent: {reason}", reason=Reason.UPSTREAM_PREPARING)


def _transfer(holder: Holder | None) -> Transfer | None:
    """How far a call is that may move data."""
    if holder is None:
        return None
    before = min((wait.before for wait in holder.waits), default=None)
    return Transfer(received=holder.received, rate=holder.rate(), before=before)


def _reworded(error: UpstreamError, message: str) -> UpstreamError:
    return type(error)(message, reason=error.reason, status=error.status, retry_after=error.retry_after)


def _value(header: str) -> str:
    """`Bearer abc` -> `abc`."""
    return header.rpartition(" ")[2]
