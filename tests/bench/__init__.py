"""Benchmarks: ratios against a baseline of the same run, never timed tests. `make bench` runs them."""
