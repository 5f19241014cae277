"""What is sent to a service with OctoAI's API for a run: names, bodies, and the files in between. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from finetune_operator.api.providers.octoai.wire import to_octoai
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Rejected
from finetune_operator.backends.provider_run import UpstreamRun

Body = dict[str, Any]

MAX_SLUG: Final = 60
CHUNK: Final = 4000
MAX_CHUNKS: Final = 48
"""`status.upstream.data` has room for so many texts of 4096 characters."""
_FILES: Final = re.compile(r"files[0-9]{2}")


def tune_name(run: UpstreamRun) -> str:
    """`<display name>-<marker>` in the characters that the SDK allows."""
    slug = re.sub(r"[^a-zA-Z0-9_-]+", "-", run.display_name)[:MAX_SLUG].strip("-")
    return f"{slug or run.name}-{run.marker}"


def bears_name(name: object, marker: str) -> bool:
    """Whether this is the name of the marker's tune, whatever stands before it."""
    return isinstance(name, str) and (name == marker or name.endswith(f"-{marker}"))


def asset_name(run: UpstreamRun, index: int, sha256: str) -> str:
    """Deterministic, and another for other content; unique in the account by the marker."""
    return f"{run.marker}-{index:05d}-{sha256[:12]}"


def asset_request(name: str, file_format: str) -> Body:
    """The body of `POST /v1/assets` for a picture; `file_format`: jpeg or png."""
    return {
        "name": name,
        "asset_type": "file",
        "data": {"asset_type": "file", "file_format": file_format},
        "transfer_api_type": "presigned-url",
    }


def tune_request(run: UpstreamRun, files: Iterable[Mapping[str, str]]) -> Body:
    """The body of `POST /v1/tune`. `files`: `{"file_id", "caption"}`."""
    body = to_octoai(run.resolved(), tune_name(run))
    body["details"]["files"] = [dict(file) for file in files]
    return body


def packed(files: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The uploaded files as texts that fit into the status. Raises Rejected where they do not."""
    text = json.dumps(files, ensure_ascii=False, separators=(",", ":"))
    chunks = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    if len(chunks) > MAX_CHUNKS:
        raise Rejected(
            f"the captions have {len(text)} characters in all, and there is room for {CHUNK * MAX_CHUNKS}: "
            "use fewer or shorter ones",
            reason=Reason.DATA_VALIDATION_FAILED,
        )
    return {f"files{index:02d}": chunk for index, chunk in enumerate(chunks)}


def cleared(data: Mapping[str, str]) -> dict[str, str]:
    """What takes the files out of the status again."""
    return {name: "" for name in data if _FILES.fullmatch(name)}


def unpacked(data: Mapping[str, str]) -> list[dict[str, str]]:
    """The inverse of `packed`; empty where nothing was uploaded."""
    text = "".join(data[name] for name in sorted(data) if _FILES.fullmatch(name))
    return list(json.loads(text)) if text else []


def lora_file(lora: str, asset: Mapping[str, Any]) -> str:
    """The file name of a LoRA: its asset's id, and the format that the asset says it has."""
    data = asset.get("data")
    ending = data.get("file_format") if isinstance(data, dict) else None
    return f"{lora}.{ending if ending in ('safetensors', 'pt') else 'safetensors'}"


def tune_path(run: UpstreamRun) -> str:
    """The id comes from the service, or from whoever adopts a run."""
    return f"/v1/tune/{quote(run.id or '', safe='')}"


def asset_path(asset: str) -> str:
    """An asset's address below the base URL."""
    return f"/v1/assets/{quote(asset, safe='')}"
