"""Upstream APIs: faithful fakes, and the operator against them."""
