"""The Secrets of a run, read when they are needed, so that a rotated key is used by the next call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from cachetools import TTLCache

from finetune_operator.api.base import SecretRef
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Blocked
from finetune_operator.backends.provider_run import Capabilities, UpstreamRun
from finetune_operator.kube import resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFound
from finetune_operator.kube.secrets import decoded

KEPT, KEPT_SECONDS = 1000, 2.0
"""A Secret that many runs share is read once for the calls that come together."""


class SecretMissing(Exception):
    """`failure` says what is missing and where."""

    def __init__(self, failure: Blocked) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Credentials:
    """Reads Secrets of the FineTune's own namespace. `clock`: monotonic seconds."""

    def __init__(self, client: KubeClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._kept: TTLCache[tuple[str, str], dict[str, str]] = TTLCache(KEPT, KEPT_SECONDS, clock)
        self._reading: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def provider(self, run: UpstreamRun, capabilities: Capabilities) -> dict[str, str]:
        """The keys that the provider needs, and only them. Raises SecretMissing and ApiError."""
        name = run.backend.secret_ref.name
        secret = await self._read(run, run.backend.secret_ref, f"backend.{capabilities.name}.secretRef")
        for keys in capabilities.secret_keys:
            if all(secret.get(key) for key in keys):
                return {key: secret[key] for key in keys}
        wanted = " or ".join(" and ".join(keys) for keys in capabilities.secret_keys)
        raise SecretMissing(
            Blocked(
                f"spec.backend.{capabilities.name}.secretRef: "
                f"Secret {name} in namespace {run.namespace} needs {wanted}",
                reason=Reason.SECRET_KEY_MISSING,
            )
        )

    async def places(self, run: UpstreamRun) -> tuple[dict[str, str], dict[str, str]]:
        """What dataset and output need. Raises SecretMissing and ApiError."""
        if run.spec is None:
            return {}, {}
        dataset, output = run.spec.dataset.secret_ref, run.spec.output.secret_ref if run.spec.output else None
        return (
            await self._read(run, dataset, "dataset.secretRef") if dataset else {},
            await self._read(run, output, "output.secretRef") if output else {},
        )

    async def _read(self, run: UpstreamRun, ref: SecretRef, field: str) -> dict[str, str]:
        async with self._reading.setdefault((run.namespace, ref.name), asyncio.Lock()):
            return await self._read_once(run, ref, field)

    async def _read_once(self, run: UpstreamRun, ref: SecretRef, field: str) -> dict[str, str]:
        place = (run.namespace, ref.name)
        if (kept := self._kept.get(place)) is not None:
            return dict(kept)
        try:
            secret = await self._client.get(resources.core(run.namespace, "secrets", ref.name))
        except NotFound:
            raise SecretMissing(
                Blocked(
                    f"spec.{field}: there is no Secret {ref.name} in namespace {run.namespace}; create it",
                    reason=Reason.SECRET_NOT_FOUND,
                )
            ) from None
        found = self._kept[place] = decoded(secret.get("data") or {})
        return dict(found)
