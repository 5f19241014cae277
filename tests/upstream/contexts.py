"""What the backends get for one call, with real connections on loopback, and pictures made by hand."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from finetune_operator.api.providers.bfl.spec import Bfl
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.datasets.needs import Kind, Needs
from finetune_operator.backends.http.address_guard import AddressGuard
from finetune_operator.backends.http.api import Api
from finetune_operator.backends.http.client import Client
from finetune_operator.backends.http.connections import Resolve
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.http.redact import Redactor
from finetune_operator.backends.provider_run import UpstreamRun
from finetune_operator.backends.transfer.call_context import CallContext
from finetune_operator.backends.transfer.spool import Disk

PICTURES = Needs(
    kind=Kind.PICTURES, formats=("png", "jpeg", "webp"), image_column="image", caption_column="caption", max_examples=50
)
PAIRS = Needs(
    kind=Kind.PAIRS,
    formats=("png",),
    image_column="after",
    caption_column="instruction",
    control_column="before",
    min_examples=2,
)
RECORDINGS = Needs(kind=Kind.RECORDINGS, formats=("wav", "mp3"))


@asynccontextmanager
async def client(hosts: Iterable[str], resolve: Resolve | None = None) -> AsyncIterator[Client]:
    """A client that may reach these hosts whatever their address is."""
    opened = Client(AddressGuard(hosts=hosts), resolve=resolve)
    try:
        yield opened
    finally:
        await opened.close()


def context_of(
    client: Client,
    spool: Path,
    *,
    dataset: Mapping[str, str] | None = None,
    output: Mapping[str, str] | None = None,
    api_url: str = "https://provider.invalid",
    disk: Disk | None = None,
) -> CallContext:
    """For one call."""
    spool.mkdir(parents=True, exist_ok=True)
    values = [*(dataset or {}).values(), *(output or {}).values()]
    return CallContext(
        api=Api(client, "Provider", api_url, {}),
        fetcher=Fetcher(client, Redactor(values)),
        credentials={},
        dataset_credentials=dataset or {},
        output_credentials=output or {},
        spool=spool,
        now=datetime.now(UTC),
        disk=disk or Disk(256 * 2**20),
    )


def run_of(dataset: str, output: str | None = None) -> UpstreamRun:
    """A run whose spec names this dataset and output."""
    spec: dict[str, Any] = {
        "baseModel": "flux-pro",
        "recipe": {"imageGeneration": {"captionColumn": "caption", "imageColumn": "image"}},
        "dataset": {"uri": dataset},
        "backend": {"bfl": {"secretRef": {"name": "bfl"}, "mode": "general"}},
    }
    if output:
        spec["output"] = {"uri": output}
    return UpstreamRun(
        provider="bfl",
        namespace="team",
        name="dogs",
        uid="0d6d5d4e-0000-4000-8000-000000000000",
        run=1,
        display_name="dogs",
        annotations={},
        spec=_spec(spec),
        backend=Bfl.model_validate(spec["backend"]["bfl"]),
        parameters={},
        marker="ft-0d6d5d4e-000000000000",
    )


def _spec(spec: dict[str, Any]) -> FineTuneSpec:
    """Also plain http on loopback, which no FineTune can name."""
    uri = spec["dataset"]["uri"]
    parsed = FineTuneSpec.model_validate({**spec, "dataset": {"uri": uri.replace("http://", "https://")}})
    return parsed.model_copy(update={"dataset": parsed.dataset.model_copy(update={"uri": uri})})


def png(colour: int = 0, padding: int = 0) -> bytes:
    """A PNG of one pixel; `padding` bytes more in a private chunk."""
    rows = zlib.compress(bytes([0, colour % 256]))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    extra = _chunk(b"fiLl", bytes(padding)) if padding else b""
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wav() -> bytes:
    """Ten samples of silence."""
    data = bytes(20)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


def parquet(columns: Mapping[str, Sequence[Any] | pyarrow.Array]) -> bytes:
    """A table."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), file)
    return file.getvalue()


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()
