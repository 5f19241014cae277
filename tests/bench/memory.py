"""`python -m tests.bench.memory`: what one object costs the cache, ordinary or made to be large, and how long it takes.

"Read whole" is what `orjson.loads` makes of it; "kept" is what is left of it in the cache.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson

from finetune_operator.controller.cache import Cache, Store
from finetune_operator.controller.watch import _Parser
from tests.unit.observations import body, job

Object = dict[str, Any]

SIZE = 1_200_000
FEW = 3


def _cases() -> dict[str, tuple[Object, bool]]:
    """By name: an object, and whether it is a Job."""
    fields = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {f"f:{n}": {} for n in range(40)}}] * 2
    ordinary, annotated, empty, text = body(), body(), body(), body()
    ordinary["metadata"]["managedFields"] = fields
    annotated["metadata"]["annotations"] = {f"a{n}": "x" * 200 for n in range(1000)}
    annotated["metadata"]["managedFields"] = [{"fieldsV1": {f"f:{n}": {} for n in range(SIZE // 16)}}]
    empty["spec"]["backend"]["job"]["advanced"] = {"x": [{}] * (SIZE // 3)}
    text["spec"]["backend"]["job"]["advanced"] = {"x": "x" * SIZE}
    plain, wide = job(), job()
    plain["metadata"]["managedFields"] = fields
    wide["spec"]["template"]["spec"]["containers"][0]["args"] = ["x"] * (SIZE // 4)
    return {
        "FineTune, ordinary": (ordinary, False),
        "FineTune, 1.2 MB of annotations and managed fields": (annotated, False),
        "FineTune, 1.2 MB of {} in its spec": (empty, False),
        "FineTune, 1.2 MB of text in its spec": (text, False),
        "Job, ordinary": (plain, True),
        "Job, 1.2 MB of arguments": (wide, True),
    }


def _measured(take: Callable[[bytes], object], line: bytes) -> int:
    tracemalloc.start()
    try:
        kept = [take(line) for _ in range(FEW)]
        return tracemalloc.get_traced_memory()[0] // len(kept)
    finally:
        tracemalloc.stop()


def _kept(store: Store) -> Callable[[bytes], object]:
    taken = iter(range(1, 1_000_000))

    def take(line: bytes) -> object:
        read = _Parser.loads(line)["object"]
        number = next(taken)
        read["metadata"] |= {"name": f"n{number}", "uid": f"u{number}", "resourceVersion": str(number)}
        return store.put(read)

    return take


def main() -> None:
    """Prints a table."""
    print("| | bytes as JSON | read whole | kept | ms |\n|---|---|---|---|---|")
    for name, (thing, is_job) in _cases().items():
        line = orjson.dumps({"type": "ADDED", "object": thing})
        cache = Cache()
        store = cache.jobs if is_job else cache.finetunes
        whole, kept = _measured(orjson.loads, line), _measured(_kept(store), line)
        began = time.process_time()
        for _ in range(FEW):
            _kept(store)(line)
        took = (time.process_time() - began) / FEW * 1000
        print(f"| {name} | {len(line):,} | {whole:,} | {kept:,} | {took:.2f} |")


if __name__ == "__main__":
    main()
