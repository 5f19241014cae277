"""What a provider says of a run while it trains: its own log where it has one, else the states that are seen of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.api.plain_text import one_line
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.kube.finetunes import find
from finetune_operator.cli.output.printing import note, out_line
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.cli.output.table import backend_of
from finetune_operator.cli.watch.display import plain_line
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError
from finetune_operator.kube.secrets import decoded

if TYPE_CHECKING:
    from finetune_operator.backends.providers.protocol import Upstream

Log = Callable[..., Awaitable[list[str]]]
POLL_SECONDS: Final = 5.0
STATE_POLL_SECONDS: Final = 1.0


def print_provider_log(
    cluster: Cluster, finetune: Object, *, follow: bool, tail: int | None, allow: Sequence[str] = ()
) -> None:
    """Lines go to stdout. `allow`: base URLs besides the provider's own that may be given the credentials."""
    from finetune_operator.backends.providers.protocol import Logged
    from finetune_operator.backends.providers.registry import members

    provider = members()[backend_of(finetune["spec"])]
    reader = None
    if not isinstance(provider, Logged):
        note(f"{provider.service.no_log}; this is what the operator sees of it")
    else:
        reader = _Reader(cluster, finetune, provider, provider.log, allow)
        if problem := reader.problem:
            note(f"{problem}; this is what the operator sees of it")
            reader = None
    if reader is None:
        _print_states(cluster, finetune, follow=follow)
    else:
        asyncio.run(reader.print(follow=follow, tail=tail))


def _print_states(cluster: Cluster, finetune: Object, *, follow: bool) -> None:
    shown = ""
    while True:
        line = state_line(finetune)
        if line != shown:
            out_line(line)
            shown = line
        if not follow or snapshot(finetune).over:
            return
        time.sleep(STATE_POLL_SECONDS)
        finetune = find(cluster, finetune["metadata"]["name"])


def state_line(finetune: Mapping[str, Any]) -> str:
    """The snapshot with the provider's own words. Pure."""
    upstream = (finetune.get("status") or {}).get("upstream") or {}
    words = [upstream.get("stage"), upstream.get("message"), upstream.get("url")]
    return "  ".join([plain_line(snapshot(finetune)), *(one_line(str(word)) for word in words if word)])


class _Reader:
    """The log of one run at its provider, read with the FineTune's own Secret."""

    def __init__(
        self,
        cluster: Cluster,
        finetune: Object,
        provider: Upstream,
        log: Callable[..., Awaitable[list[str]]],
        allow: Sequence[str],
    ) -> None:
        from finetune_operator.backends.providers.protocol import capabilities_of

        self._cluster = cluster
        self._finetune = finetune
        self._member = provider
        self._log = log
        self._capabilities = capabilities_of(provider)
        self._provider = self._capabilities.name
        self._backend: Mapping[str, Any] = finetune["spec"]["backend"][self._provider]
        self._base_url = str(self._backend.get("baseURL") or self._capabilities.base_url or "").rstrip("/")
        self._allow = allow
        self._credentials: dict[str, str] = {}
        self.problem = self._prepare()

    @property
    def _upstream(self) -> Mapping[str, Any]:
        return (self._finetune.get("status") or {}).get("upstream") or {}

    def _prepare(self) -> str:
        """Why the provider cannot be asked; empty where it can."""
        capabilities = self._capabilities
        official = {each.rstrip("/") for each in (capabilities.base_url, *capabilities.also) if each}
        if self._base_url not in official | {each.rstrip("/") for each in self._allow}:
            # Whoever wrote the FineTune chose that address; the Secret is not sent there on somebody else's word.
            return f"{self._base_url} is not {self._provider}'s own address: allow it with --allow-base-url"
        name = (self._backend.get("secretRef") or {}).get("name") or ""
        namespace = self._finetune["metadata"]["namespace"]
        try:
            secret = self._cluster.get(resources.core(namespace, "secrets", name))
        except ApiError as error:
            return f"Secret {name} cannot be read ({error.message})"
        found = decoded(secret.get("data") or {})
        for keys in capabilities.secret_keys:
            if all(found.get(key) for key in keys):
                self._credentials = {key: found[key] for key in keys}
                return ""
        wanted = " or ".join(" and ".join(keys) for keys in capabilities.secret_keys)
        return f"Secret {name} needs {wanted}"

    async def print(self, *, follow: bool, tail: int | None) -> None:
        """Raises CommandError where the provider cannot be asked."""
        from finetune_operator.backends.errors import Transient, UpstreamError
        from finetune_operator.backends.http.address_guard import AddressGuard
        from finetune_operator.backends.http.api import Api
        from finetune_operator.backends.http.client import Client
        from finetune_operator.backends.http.redact import Redactor
        from finetune_operator.backends.providers.protocol import explanation_of

        client = Client(AddressGuard(base_urls=self._allow))
        headers = self._member.headers(self._credentials)
        redact = Redactor([*self._credentials.values(), *(value.rpartition(" ")[2] for value in headers.values())])
        api = Api(client, self._provider, self._base_url, headers, redact=redact, explain=explanation_of(self._member))
        printed: list[str] | None = None
        try:
            while True:
                over = snapshot(self._finetune).over
                try:
                    known = self._upstream.get("id")
                    lines = await self._log(api, self._backend, self._upstream) if known else []
                except Transient:
                    if not follow:
                        raise
                    lines = printed or []
                fresh = new_lines(printed or [], lines)
                if printed is None and tail is not None:
                    fresh = fresh[len(fresh) - min(tail, len(fresh)) :]
                for line in fresh:
                    out_line(redact(line))
                printed = lines
                if over or not follow:
                    return
                await asyncio.sleep(POLL_SECONDS)
                self._finetune = find(self._cluster, self._finetune["metadata"]["name"])
        except UpstreamError as error:
            raise CommandError(
                f"{self._provider}: {error.message}", "What the operator knows: kubectl finetune describe."
            ) from None
        finally:
            await client.close()


def new_lines(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """What `now` has after the end of `before`; the provider may have dropped lines at the beginning. Pure."""
    for start in range(len(before) + 1):
        kept = before[start:]
        if list(now[: len(kept)]) == list(kept):
            return list(now[len(kept) :])
    return list(now)
