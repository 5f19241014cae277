"""Makes what the demo trains on: a small dataset of rendered receipts and a tiny Qwen3-VL checkpoint."""
