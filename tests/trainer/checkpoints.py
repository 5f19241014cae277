"""The tiny checkpoints that the trainer's tests train, made once per session."""

from pathlib import Path

from examples.demo.checkpoint import TinySize, make_qwen3_vl

__all__ = ["TinySize", "make_qwen3_vl", "tiny_qwen3_vl"]


def tiny_qwen3_vl(folder: Path) -> Path:
    """145 thousand weights, byte-level tokens, images of 4 to 16 tokens (32x32 pixels each)."""
    return make_qwen3_vl(folder)
