"""Weights as providers give them: a whole, small safetensors file."""

from __future__ import annotations

import json
import struct


def safetensors(tensors: int = 4, elements: int = 256) -> bytes:
    """`tensors` vectors of so many float32, each of its own value."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for number in range(tensors):
        body = struct.pack("<f", number) * elements
        span = [len(data), len(data) + len(body)]
        header[f"lora.{number}.weight"] = {"dtype": "F32", "shape": [elements], "data_offsets": span}  # type: ignore[dict-item]
        data += body
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data
