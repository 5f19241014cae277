"""What a hosted provider is to the operator: a few traits and a handful of small coroutines.

The life of a run, as the policies drive it (one call in flight per FineTune):

    prepare -> create -> equip -> start -> poll ... -> fetch          find: after a lost answer or a restart
                                                                      cancel, delete: on the user's word

Every call may be repeated after a crash at any moment. `prepare`, `equip`, `cancel`, `delete` and `fetch` are
idempotent (deterministic names; what is there is left alone). `create` and `start` are made at most once by the
policies without a look in between: `find` (by marker) before a second `create`, `poll` before a second `start`.
Coroutines raise the errors of `backends/errors.py` and nothing else for whatever a provider can do to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.http.responses import Answer
from finetune_operator.backends.provider_run import Capabilities, Fetched, Outcome, PollResult, UpstreamRun
from finetune_operator.backends.transfer.call_context import CallContext


class Upstream(Protocol):
    """One provider. Stateless: one instance serves every FineTune."""

    capabilities: Capabilities

    def headers(self, credentials: Mapping[str, str]) -> dict[str, str]:
        """The authentication headers. Pure."""

    def explain(self, answer: Answer) -> UpstreamError | None:
        """What an answer that is not 2xx means at this provider; None: the general reading (`responses.explained`)."""

    async def prepare(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Whatever must be there before `create` and costs nothing (uploads by deterministic names)."""

    async def find(self, run: UpstreamRun, context: CallContext) -> Outcome | None:
        """The run of this marker, with its `id`; None where the provider has none. Pages through everything."""

    async def create(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """POST it; the outcome has its `id`. An answer without a readable id is Ambiguous."""

    async def equip(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Uploads that need the id; the price before the start goes into `cost`."""

    async def start(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Let it train. "It trains already" is success."""

    async def poll(self, run: UpstreamRun, context: CallContext) -> PollResult:
        """What it does now. Raises Gone where the provider knows it no more."""

    async def cancel(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Stop it. Over already, or gone, is success."""

    async def delete(self, run: UpstreamRun, context: CallContext) -> Outcome:
        """Remove it at the provider. Gone already is success."""

    async def fetch(self, run: UpstreamRun, context: CallContext) -> Fetched:
        """Stream the weights to `spec.output.uri`."""
