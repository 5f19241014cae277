"""Lists of what anybody in a namespace can make many and large: page by page, and no more of them than is said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import Gone, TooLarge

PAGE: Final = 100
_SMALLER: Final = 10
"""Where a page is too large, this part of it is asked for."""


async def pages(
    client: KubeClient, path: str, selector: Mapping[str, str], *, most_bytes: int, most_pages: int
) -> AsyncIterator[list[Object]]:
    """The objects of the selection, a page at a time, as the API server orders them: by name.

    Raises TooLarge where there are more pages than `most_pages`, or more than `most_bytes` of them: then what has come
    is not all. Raises ApiError.
    """
    limit, left, token = PAGE, most_bytes, ""
    for _ in range(most_pages):
        params = {**selector, "limit": str(limit), **({"continue": token} if token else {})}
        try:
            answer, size = await client.page(path, params, left)
        except TooLarge:
            if limit == 1:
                raise
            limit = max(1, limit // _SMALLER)
            continue
        except Gone:
            if not token:
                raise
            raise TooLarge(f"GET {path}: it took too long to read all pages") from None
        yield [each for each in answer.get("items") or () if isinstance(each, dict)]
        token = _continue(answer)
        if not token:
            return
        left -= size
    raise TooLarge(f"GET {path}: there are more than {most_pages} pages")


def _continue(answer: Object) -> str:
    metadata: Any = answer.get("metadata")
    return str(metadata.get("continue") or "") if isinstance(metadata, dict) else ""
