"""What the cache keeps of objects that are made to be large, and what it says of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from finetune_operator.controller.cache import Cache, Malformed
from finetune_operator.controller.model import read_finetune
from finetune_operator.controller.spec_cache import SpecCache
from finetune_operator.controller.trim import MAX_SPEC
from finetune_operator.controller.watch import _parsed, _Parser
from finetune_operator.kube.weight import Omitted, weight_of
from tests.api.finetunes import nested
from tests.unit.observations import body, job

Object = dict[str, Any]

SIZE = 1_200_000
EMPTY: list[Object] = [{}] * (SIZE // 3)
NAMES = {f"k{number}": "" for number in range(SIZE // 12)}


def _finetune(number: int) -> Object:
    made = body(f"sample-{number}")
    made["metadata"]["uid"] = f"uid-{number}"
    return made


def _advanced(made: Object, value: Any) -> None:
    made["spec"]["backend"]["job"]["advanced"] = {"x": value}


LARGE: dict[str, Callable[[Object], None]] = {
    "lists": lambda made: _advanced(made, EMPTY),
    "lists in each other": lambda made: _advanced(made, [[[[[[[[[[[[1]]]]]]]]]]]] * (SIZE // 26)),
    "names": lambda made: _advanced(made, NAMES),
    "numbers": lambda made: _advanced(made, [1.5] * (SIZE // 4)),
    "a text": lambda made: _advanced(made, "x" * SIZE),
    "an unknown member of the spec": lambda made: made["spec"].update(unknown=EMPTY),
    "annotations": lambda made: made["metadata"].update(annotations={"theirs": "x" * 260_000}),
    "managed fields": lambda made: made["metadata"].update(managedFields=EMPTY),
    "owners": lambda made: made["metadata"].update(ownerReferences=[{"uid": "x"}] * (SIZE // 12)),
    "parameters": lambda made: made.update(status={"parameters": {"x": EMPTY}}),
}


def _bytes_of(objects: list[Object], jobs: bool = False) -> int:
    """Bytes that the cache keeps of each, fed as the watch feeds it."""
    lines = [orjson.dumps({"type": "ADDED", "object": each}) for each in objects]
    cache = Cache()
    store = cache.jobs if jobs else cache.finetunes
    tracemalloc.start()
    try:
        for line in lines:
            store.put(_Parser.loads(line)["object"])
        return tracemalloc.get_traced_memory()[0] // len(objects)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("enlarge", LARGE.values(), ids=LARGE)
def test_a_large_finetune_costs_the_cache_hardly_more_than_another(enlarge: Callable[[Object], None]) -> None:
    made = [_finetune(number) for number in range(2)]
    for each in made:
        enlarge(each)
    assert _bytes_of(made) < 16_000


def test_an_ordinary_finetune_is_kept_whole_but_for_what_is_not_read() -> None:
    cache = Cache()
    made = _finetune(1)
    made["metadata"] |= {"labels": {"team": "a", "kueue.x-k8s.io/queue-name": "q"}, "finalizers": ["theirs"]}
    cache.finetunes.put(orjson.loads(orjson.dumps(made)))
    (kept,) = cache.finetunes.values()
    assert kept["spec"] == made["spec"]
    assert kept["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    assert kept["metadata"]["finalizers"] == ["theirs"]


@pytest.mark.parametrize("member", ["env", "args"])
def test_of_a_jobs_pod_template_only_the_configuration_is_kept(member: str) -> None:
    made = job()
    made["spec"]["template"]["spec"]["containers"][0][member] = EMPTY
    made["metadata"]["annotations"] = {"theirs": "x" * 200_000}
    assert _bytes_of([made], jobs=True) < 24_000
    cache = Cache()
    cache.jobs.put(_Parser.loads(orjson.dumps({"type": "ADDED", "object": job()}))["object"])
    (kept,) = cache.jobs.values()
    assert kept["spec"]["template"]["metadata"]["annotations"].keys() == {"finetune.dev/config"}
    assert kept["spec"]["backoffLimit"] == job()["spec"]["backoffLimit"]


@pytest.mark.parametrize("weight", ["too heavy to be read", "too heavy to be kept"])
def test_a_spec_that_is_too_large_is_refused_by_the_name_of_the_member(weight: str) -> None:
    made = _finetune(1)
    made["spec"] |= {"run": 3, "cancel": True}
    _advanced(made, EMPTY if weight == "too heavy to be read" else [{}] * 6000)
    size = len(orjson.dumps(made["spec"]["backend"]))
    cache = Cache()
    cache.finetunes.put(_Parser.loads(orjson.dumps({"type": "ADDED", "object": made}))["object"])
    (kept,) = cache.finetunes.values()
    found = read_finetune(kept)
    assert found.spec_error == (
        f"spec.backend has {size} bytes: a spec may have at most {MAX_SPEC} bytes, each list, object and comma counted "
        "as 65"
    )
    assert (found.run, kept["spec"]["cancel"]) == (3, True)


@pytest.mark.parametrize("levels", [300, 900])
def test_one_that_is_deeper_than_can_be_written_is_kept_for_its_reconcile_to_refuse(levels: int) -> None:
    made = orjson.loads(nested(_finetune(1), levels))
    SpecCache().of(made)
    cache = Cache()
    cache.finetunes.put(made)
    assert "spec.backend.job.advanced.x: " in str(read_finetune(cache.finetunes.values()[0]).spec_error)


def test_the_largest_member_goes_first() -> None:
    cache, made = Cache(), _finetune(1)
    made["spec"] |= {"first": [{}] * 3000, "second": "x" * 200_000}
    cache.finetunes.put(made)
    (kept,) = cache.finetunes.values()
    assert isinstance(kept["spec"]["first"], Omitted)
    assert kept["spec"]["second"] == "x" * 200_000
    assert weight_of(kept["spec"]) <= MAX_SPEC


@pytest.mark.parametrize("member", [{"finalizers": ["a" * 20_000]}, {"labels": NAMES}])
def test_what_cannot_be_left_out_is_not_kept(member: Object) -> None:
    made = _finetune(1)
    made["metadata"] |= member
    read = _Parser.loads(orjson.dumps({"type": "ADDED", "object": made}))["object"]
    with pytest.raises(Malformed, match="metadata"):
        Cache().finetunes.put(read)


async def test_a_page_of_large_ones_is_read_one_at_a_time() -> None:
    """A page of 500 of them would be more than 10 GB."""
    made = _finetune(1)
    _advanced(made, EMPTY)
    one = orjson.dumps(made)
    raw = b'{"kind":"FineTuneList","items":[%s],"metadata":{"resourceVersion":"9"}}' % b",".join([one] * 8)
    tracemalloc.start()
    try:
        page = await _parsed(raw)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(page["items"]) == 8
    assert page["metadata"] == {"resourceVersion": "9"}
    assert most < 3 * len(raw)
