"""The requests that a FineTune would send to its provider, in their order, with every secret masked. Pure.

For people who want to see what happens before anything is applied. Files and what only a run can know (its marker,
the provider's ids) stand as words in angle brackets.
"""

from __future__ import annotations

from typing import Final

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.providers.protocol import Upstream, capabilities_of
from finetune_operator.backends.providers.registry import members
from finetune_operator.backends.providers.request import Address, Request

MASK: Final = "[masked]"
MARKER: Final = "ft-xxxxxxxx-xxxxxxxxxxxx"


def describe_requests(
    spec: FineTuneSpec, *, name: str = "finetune", namespace: str = "default", display_name: str | None = None
) -> tuple[Request, ...]:
    """Those that change something at the provider; empty for backend.job.

    Raises ConversionError where the backend cannot honour the spec.
    """
    backend = spec.backend.upstream
    if backend is None:
        return ()
    run = UpstreamRun(
        namespace=namespace,
        name=name,
        uid="",
        run=spec.run,
        display_name=display_name or name,
        annotations={},
        provider=spec.backend.kind,
        spec=spec,
        backend=backend,
        parameters=resolve_parameters(spec),
        marker=MARKER,
        id="<id>",
    )
    provider = members()[run.provider]
    return tuple(provider.dry_run(run, _address(run, provider)))


def _address(run: UpstreamRun, provider: Upstream) -> Address:
    capabilities = capabilities_of(provider)
    credentials = dict.fromkeys(capabilities.secret_keys[0], MASK)
    headers = {name: _masked(value) for name, value in provider.headers(credentials).items()}
    return Address((run.backend.base_url or capabilities.base_url or "").rstrip("/"), headers)


def _masked(header: str) -> str:
    """`Basic abc` -> `Basic [masked]`."""
    scheme, space, _ = header.rpartition(" ")
    return f"{scheme}{space}{MASK}"
