"""Which pod a token speaks for: TokenReview, remembered for a minute by the token's hash.

A projected token is bound to its pod: the API server names the pod and its uid in the review's `extra`, and ends the
token with the pod (Kubernetes >= 1.22). The audience keeps tokens meant for others out, and ours away from others.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from cachetools import TTLCache

from finetune_operator.api.names import PROGRESS_AUDIENCE
from finetune_operator.api.objects import Object

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_SERVICE_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9-]+):[a-z0-9.-]+")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LONGEST_TOKEN: Final = 16_384


class NotAuthenticated(Exception):
    """Not a token of this cluster for this audience, or no longer one."""


class NotAPod(Exception):
    """A good token that is bound to no pod."""


class Pod(NamedTuple):
    """Who speaks."""

    namespace: str
    name: str
    uid: str


class Client(Protocol):
    """The one call. It is a create, but changes nothing: not to be guarded by the Lease."""

    async def create(self, path: str, body: Object) -> Object: ...


class PodTokens:
    """Remembers at most `capacity` tokens for `ttl` seconds; asks at most `concurrency` times at the same time."""

    def __init__(
        self,
        client: Client,
        clock: Callable[[], float],
        *,
        ttl: float = 60.0,
        capacity: int = 4096,
        concurrency: int = 8,
    ) -> None:
        self._client = client
        self._slots = asyncio.Semaphore(concurrency)
        self._known: TTLCache[bytes, Pod] = TTLCache(capacity, ttl, clock)

    def known(self, token: str) -> Pod | None:
        """The pod, where the token was reviewed less than `ttl` seconds ago."""
        return self._known.get(_digest(token))

    async def review(self, token: str) -> Pod:
        """The pod, from the API server. Raises NotAuthenticated, NotAPod and ApiError."""
        if len(token) > _LONGEST_TOKEN or not _TOKEN.fullmatch(token):
            raise NotAuthenticated
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [PROGRESS_AUDIENCE]},
        }
        async with self._slots:
            answer = await self._client.create(REVIEWS, body)
        pod = self._known[_digest(token)] = pod_of(answer.get("status") or {})
        return pod


def pod_of(status: Object) -> Pod:
    """The pod in a TokenReview's status. Raises NotAuthenticated or NotAPod."""
    # An authenticator that knows nothing of audiences answers without any: that is no proof.
    if not status.get("authenticated") or PROGRESS_AUDIENCE not in (status.get("audiences") or ()):
        raise NotAuthenticated
    user = status.get("user") or {}
    account = _SERVICE_ACCOUNT.fullmatch(user.get("username") or "")
    extra = user.get("extra") or {}
    names: list[str] = extra.get(POD_NAME) or []
    uids: list[str] = extra.get(POD_UID) or []
    if account is None or len(names) != 1 or len(uids) != 1:
        raise NotAPod
    return Pod(account[1], names[0], uids[0])


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
