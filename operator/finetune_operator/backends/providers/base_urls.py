"""Which base URL a run uses: the provider's own, or one that the administrator allows. Pure."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Refused
from finetune_operator.backends.provider_run import Capabilities


def base_url_of(backend: UpstreamBackend, capabilities: Capabilities, allowed: Collection[str]) -> str:
    """Without a trailing slash. Raises Refused, saying what the administrator can do."""
    own = [url for url in (capabilities.base_url, *capabilities.also) if url]
    wanted = backend.base_url or capabilities.base_url
    if wanted is None:
        raise Refused(
            f"spec.backend.{capabilities.name}.baseURL: {capabilities.title} needs one",
            reason=Reason.BASE_URL_NOT_ALLOWED,
        )
    wanted = normal(wanted)
    if wanted in {normal(url) for url in (*own, *allowed)}:
        return wanted
    raise Refused(
        f"spec.backend.{capabilities.name}.baseURL: {wanted} is not on the operator's allow list; "
        f"ask the administrator for --allow-base-url {wanted}",
        reason=Reason.BASE_URL_NOT_ALLOWED,
    )


@lru_cache(maxsize=1024)
def normal(url: str) -> str:
    """Comparable: scheme and host in lower case, no default port, no trailing slash."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    port = f":{parts.port}" if parts.port not in (None, default) else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
