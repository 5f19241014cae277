"""Objects as hostile or careless people make them: whatever the API server accepts, it may store.

Strategies of hypothesis, and a way to have a fixed number of examples of each: they go to a real API server, which is
too slow to shrink with. What fails is named by its number and printed.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from finetune_operator.api.names import MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, RUN_LABEL, UID_LABEL
from tests.api.finetunes import changed
from tests.faults.user import DONE, sample

Object = dict[str, Any]
T = TypeVar("T")

UIDS = ("11111111-2222-3333-4444-555555555555", "", "x" * 60)
_STAMPS = st.sampled_from(
    ["2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-02T03:04:05.999999+23:59"]
)
_TEXTS = st.one_of(
    st.sampled_from(
        ["", "\x00", "a" * 5000, "\u202e\u2028", "é", "-1", "null", "Succeeded", "Failed", DONE, "{", "[]"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_NUMBERS = st.one_of(st.sampled_from([0, -1, 2**31, 2**53 + 1, 2**63 - 1, 10**25, 1e308, -0.0, 0.1]), st.integers())
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=8,
)
_LABEL = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
_ANNOTATIONS = st.dictionaries(
    st.one_of(
        st.sampled_from(
            [
                f"finetune.dev/{name}"
                for name in ("config", "adopt", "create-again", "suspended-by-spec", "display-name")
            ]
        ),
        _LABEL,
    ),
    _TEXTS,
    max_size=3,
)
_LABELS = st.fixed_dictionaries(
    {},
    optional={
        MANAGED_BY_LABEL: st.sampled_from([MANAGED_BY, "me"]),
        NAME_LABEL: st.sampled_from(["victim", "honest", "nobody", ""]),
        RUN_LABEL: st.sampled_from(["1", "0", "1e9", "999999999999", "x", ""]),
        UID_LABEL: st.sampled_from([UIDS[0], ""]),
        "kueue.x-k8s.io/queue-name": _LABEL,
    },
)


def examples(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """So many of them, the same ones every time."""
    found: list[T] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


def _metadata(name: str) -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries({"name": st.just(name)}, optional={"labels": _LABELS, "annotations": _ANNOTATIONS})


def _owners(owner: Object) -> st.SearchStrategy[list[Object]]:
    """Of this FineTune, of one that never was, and of something else."""
    one = st.fixed_dictionaries(
        {
            "apiVersion": st.sampled_from(["finetune.dev/v1alpha1", "v1", "batch/v1"]),
            "kind": st.sampled_from(["FineTune", "Job", "ConfigMap"]),
            "name": st.sampled_from(["victim", "nobody"]),
            "uid": st.sampled_from([owner["metadata"]["uid"], UIDS[0]]),
        },
        optional={"controller": st.booleans(), "blockOwnerDeletion": st.booleans()},
    )
    return st.lists(one, max_size=2)


# FineTunes


_CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "metadata.labels": _LABELS,
    "metadata.annotations": _ANNOTATIONS,
    "spec.backend.job.advanced": st.dictionaries(_LABEL, JSON, max_size=3),
    "spec.backend.job.nodeSelector": st.dictionaries(_LABEL, _LABEL, max_size=2),
    "spec.backend.job.affinity": st.dictionaries(_LABEL, JSON, max_size=2),
    "spec.backend.job.resources": st.dictionaries(_LABEL, JSON, max_size=2),
    "spec.backend.job.tolerations": st.lists(st.dictionaries(_LABEL, JSON, max_size=2), max_size=2),
    "spec.backend.job.unknown": JSON,
    "spec.run": st.one_of(st.sampled_from([1, 2, 2**31 - 1, 2.0]), _NUMBERS),
    "spec.suspend": st.booleans(),
    "spec.cancel": st.booleans(),
    "spec.ttlSecondsAfterFinished": st.one_of(st.sampled_from([0, 2**31 - 1]), _NUMBERS),
    "spec.activeDeadlineSeconds": st.one_of(st.sampled_from([1, 2**31 - 1]), _NUMBERS),
    "spec.baseModel": _TEXTS,
    "spec.dataset.uri": st.one_of(st.sampled_from(["https://x/\u202e", "s3://b", "pvc://", "hf://a/b?c#d"]), _TEXTS),
    "spec.unknown": JSON,
}


def finetunes() -> st.SearchStrategy[Object]:
    """A valid one with one or two members that are anything."""
    change = st.sampled_from(sorted(_CHANGES)).flatmap(lambda path: st.tuples(st.just(path), _CHANGES[path]))

    def made(changes: list[tuple[str, Any]]) -> Object:
        body = sample("any")
        for path, value in changes:
            body = changed(body, path, value)
        return body

    return st.lists(change, min_size=1, max_size=2).map(made)


def statuses() -> st.SearchStrategy[Object]:
    """Of a FineTune, as somebody with too many rights may write it."""
    conditions = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Accepted", "Running", "Complete", "Failed", "Stalled", "Odd"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
            "reason": st.sampled_from(["Valid", "Succeeded", "Odd"]),
            "message": _TEXTS,
            "lastTransitionTime": _STAMPS,
        }
    )
    upstream = st.dictionaries(st.sampled_from(["id", "marker", "attempt", "state", "odd"]), JSON, max_size=3)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Cancelled", "Odd"]),
        "run": _NUMBERS,
        "parameters": st.dictionaries(_TEXTS, JSON, max_size=3),
        "history": st.lists(st.fixed_dictionaries({"run": _NUMBERS}, optional={"parameters": JSON}), max_size=3),
        "conditions": st.lists(conditions, max_size=3, unique_by=lambda each: each["type"]),
        "startTime": _STAMPS,
        "completionTime": _STAMPS,
        "progress": st.dictionaries(_TEXTS, JSON, max_size=3),
        "job": st.fixed_dictionaries({}, optional={"name": _TEXTS, "uid": _TEXTS}),
        "artifacts": st.lists(st.dictionaries(_TEXTS, JSON, max_size=3), max_size=2),
        "upstream": upstream,
        "observedGeneration": _NUMBERS,
    }
    return st.fixed_dictionaries({}, optional=fields)


# Jobs, pods, Events


def jobs(owner: Object) -> st.SearchStrategy[Object]:
    """Suspended, so that none of them makes pods; some call themselves the FineTune's."""
    container = {"name": "trainer", "image": "trainer"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    spec = st.fixed_dictionaries(
        {
            "suspend": st.just(True),
            "template": st.fixed_dictionaries(
                {"spec": st.just(pod)},
                optional={"metadata": st.fixed_dictionaries({}, optional={"annotations": _ANNOTATIONS})},
            ),
        },
        optional={
            "parallelism": st.integers(0, 3),
            "backoffLimit": st.sampled_from([0, 2**31 - 1]),
            "activeDeadlineSeconds": st.sampled_from([1000, 2**31]),
            "ttlSecondsAfterFinished": st.sampled_from([1000, 2**31 - 1]),
            "managedBy": st.just("example.com/nobody"),
        },
    )
    name = st.sampled_from(["any", "nobody-1", "victim-0", "victim-7", "victim-99999999999", "victim-x", "a" * 63])

    def made(parts: tuple[Object, list[Object], Object, str]) -> Object:
        metadata, owners, members, called = parts
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**metadata, "name": called, "ownerReferences": owners},
            "spec": members,
        }

    return st.tuples(_metadata("any"), _owners(owner), spec, name).map(made)


def job_statuses() -> st.SearchStrategy[Object]:
    """Of a Job."""
    condition = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Complete", "Failed", "Suspended", "SuccessCriteriaMet", "FailureTarget", "Odd"]),
            "status": st.sampled_from(["True", "False", "Unknown"]),
        },
        optional={"reason": _LABEL, "message": _TEXTS, "lastTransitionTime": _STAMPS},
    )
    counts = st.sampled_from([0, 1, 2**31 - 1])
    fields: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("active", "ready", "failed", "succeeded", "terminating"), counts),
        "startTime": _STAMPS,
        "completionTime": _STAMPS,
        "conditions": st.lists(condition, max_size=3, unique_by=lambda each: each["type"]),
        "uncountedTerminatedPods": st.fixed_dictionaries({}, optional={"failed": st.lists(_LABEL, max_size=2)}),
    }
    return st.fixed_dictionaries({}, optional=fields)


def pods(job: Object) -> st.SearchStrategy[tuple[Object, Object]]:
    """Each with its status; all of them say that they are this Job's."""
    metadata = job["metadata"]
    labels = {**job["spec"]["template"]["metadata"]["labels"]}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    terminated = st.fixed_dictionaries(
        {"exitCode": st.sampled_from([0, 1, 2, 3, 75, 137, 255, -1])},
        optional={
            "reason": _TEXTS,
            "message": st.one_of(_TEXTS, JSON.map(lambda value: json.dumps(value)[:4000]), _reports()),
            "startedAt": _STAMPS,
            "finishedAt": _STAMPS,
        },
    )
    waiting = st.fixed_dictionaries({}, optional={"reason": _TEXTS, "message": _TEXTS})
    state: st.SearchStrategy[Object] = st.one_of(
        st.fixed_dictionaries({"terminated": terminated}),
        st.fixed_dictionaries({"waiting": waiting}),
        st.just({"running": {}}),
    )
    container = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["trainer", "sidecar"]),
            "image": st.just("i"),
            "imageID": st.just(""),
            "restartCount": st.sampled_from([0, 2**31 - 1]),
            "ready": st.booleans(),
            "state": state,
        },
        optional={"lastState": state},
    )
    fields: dict[str, st.SearchStrategy[Any]] = {
        "phase": st.sampled_from(["Pending", "Running", "Unknown", "Odd"]),
        "reason": _TEXTS,
        "message": _TEXTS,
        "startTime": _STAMPS,
        "containerStatuses": st.lists(container, max_size=2, unique_by=lambda each: each["name"]),
        "initContainerStatuses": st.lists(container, max_size=1),
        "conditions": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(["PodScheduled", "DisruptionTarget", "Ready", "Odd"]),
                    "status": st.sampled_from(["True", "False"]),
                },
                optional={"reason": _TEXTS, "message": _TEXTS, "lastTransitionTime": _STAMPS},
            ),
            max_size=3,
            unique_by=lambda each: each["type"],
        ),
    }

    def made(status: Object) -> tuple[Object, Object]:
        references = [{**owner, "controller": True}]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": f"{metadata['name']}-", "labels": labels, "ownerReferences": references},
            "spec": job["spec"]["template"]["spec"],
        }
        return body, status

    return st.fixed_dictionaries({}, optional=fields).map(made)


def _reports() -> st.SearchStrategy[str]:
    """The trainer's last words, with members of other types."""
    fields = ("state", "reason", "message", "step", "totalSteps", "loss", "artifacts", "checkpoint", "progress")
    return st.dictionaries(st.sampled_from(fields), JSON, max_size=4).map(lambda value: json.dumps(value)[:4000])


def events(job: Object) -> st.SearchStrategy[Object]:
    """About the Job and its pods, in the name of anybody."""
    name = job["metadata"]["name"]
    about = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["Job", "Pod", "", "Odd"]),
            "namespace": st.just(job["metadata"]["namespace"]),
            "name": st.sampled_from([name, f"{name}-abcde", ""]),
        },
        optional={"uid": _TEXTS, "fieldPath": _TEXTS},
    )
    reasons = ("FailedCreate", "FailedScheduling", "FailedMount", "BackOff", "ErrImagePull", "OOMKilled", "", "Odd")
    fields: dict[str, st.SearchStrategy[Any]] = {
        "reason": st.sampled_from(reasons),
        "message": st.one_of(
            _TEXTS, st.just('exceeded quota: "x"'), st.just("0/1 nodes are available: 1 Insufficient")
        ),
        "count": st.sampled_from([0, -1, 2**31 - 1]),
        "firstTimestamp": _STAMPS,
        "lastTimestamp": _STAMPS,
        "source": st.fixed_dictionaries({}, optional={"component": _TEXTS}),
    }
    series = st.fixed_dictionaries({"count": st.just(2), "lastObservedTime": st.just("2026-01-02T03:04:05.000000Z")})

    def made(parts: tuple[Object, Object, Object | None]) -> Object:
        involved, members, more = parts
        modern = {"eventTime": "2026-01-02T03:04:05.000000Z", "series": more, "action": "a"} if more else {}
        modern |= {"reportingComponent": "example.com/c", "reportingInstance": "i"} if more else {}
        metadata = {"generateName": "any."}
        body = {"apiVersion": "v1", "kind": "Event", "metadata": metadata, "involvedObject": involved}
        return {**body, "type": "Warning", **members, **modern}

    return st.tuples(about, st.fixed_dictionaries({}, optional=fields), st.one_of(st.none(), series)).map(made)
