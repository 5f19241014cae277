"""What the kernel lets a process that reads hostile files have."""

from __future__ import annotations

import resource


def bound_memory(most: int) -> None:
    """Bytes of memory of its own that this process may have from now on; more is a MemoryError. No core dumps."""
    _lower(resource.RLIMIT_DATA, most)
    _lower(resource.RLIMIT_CORE, 0)


def bound_processor(seconds: int) -> None:
    """Processor time that this process may take in all; it dies of SIGXCPU."""
    _lower(resource.RLIMIT_CPU, seconds)


def memory_bound() -> int | None:
    """Bytes; None without a bound."""
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (bound, bound))
