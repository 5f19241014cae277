"""The trainer's log across the attempts of a run: what `kubectl logs job/…` cannot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.kube.finetunes import find
from finetune_operator.cli.kube.pods import ended, pods_of, started
from finetune_operator.cli.output.printing import note, out_line
from finetune_operator.cli.output.snapshot import snapshot
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError, BadRequest, NotFound, Unreachable

POLL_SECONDS: Final = 1.0


class PodLogs:
    """The log of one run. Lines go to stdout, headings to stderr."""

    def __init__(
        self,
        cluster: Cluster,
        finetune: Object,
        run: int | None,
        *,
        attempt: int | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> None:
        self._cluster = cluster
        self._finetune = finetune
        self._newest_run = int(finetune["spec"].get("run") or 1)
        self._run = run or self._newest_run
        self._attempt = attempt
        self._tail = tail
        self._timestamps = timestamps
        self._lines: dict[str, int] = {}
        """Pod -> lines that are printed already."""
        self._complete: set[str] = set()
        self._numbers: dict[str, int] = {}
        """Pod -> attempt; a pod that goes takes its number along."""
        self._before: int | None = None

    def print(self, *, follow: bool) -> None:
        """Every attempt that has a log. Raises CommandError where there is none, and none will come."""
        told = False
        while True:
            pods = pods_of(self._cluster, self._finetune, self._run)
            for number, pod in self._readable(pods):
                self._one(number, pod, follow=follow)
            if not follow or self._over():
                break
            if not self._lines and not told:
                note(f"waiting for the trainer to start: {self._why()}")
                told = True
            time.sleep(POLL_SECONDS)
        if not self._lines:
            raise self._nothing()

    def _readable(self, pods: list[Object]) -> list[tuple[int, Object]]:
        for pod in pods:
            self._numbers.setdefault(pod["metadata"]["name"], self._gone(pods) + len(self._numbers) + 1)
        return [
            (number, pod)
            for pod in pods
            for number in [self._numbers[pod["metadata"]["name"]]]
            if started(pod) and pod["metadata"]["name"] not in self._complete and self._attempt in (None, number)
        ]

    def _gone(self, pods: list[Object]) -> int:
        """Attempts that had no pod any more when the reading began: the status has counted them."""
        if self._before is None:
            status = self._finetune.get("status") or {}
            counted = int(status.get("attempts") or 0) if status.get("run") == self._run else 0
            self._before = max(0, counted - len(pods))
        return self._before

    def _one(self, number: int, pod: Object, *, follow: bool) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        printed = self._lines.get(name)
        if printed is None:
            node = (pod.get("spec") or {}).get("nodeName") or "no node"
            note(f"==> run {self._run}, attempt {number}: {name} on {node} <==")
        self._lines[name] = seen = printed or 0
        query = {"timestamps": "true"} if self._timestamps else {}
        query |= {"follow": "true"} if follow else {}
        query |= {"tailLines": str(self._tail)} if self._tail is not None and printed is None else {}
        try:
            for index, line in enumerate(self._cluster.lines(_log(namespace, name), **query)):
                # After a connection that broke off, the log comes again from its beginning.
                if index >= seen:
                    out_line(line)
                    self._lines[name] += 1
        except NotFound:
            note(f"the pod {name} is gone, and its log with it")
            self._complete.add(name)
        except BadRequest as error:
            note(error.message)
        except Unreachable:
            if not follow:
                raise
            return
        if not follow or ended(pod) or ended(self._now(pod)):
            self._complete.add(name)

    def _now(self, pod: Object) -> Mapping[str, Any]:
        metadata = pod["metadata"]
        try:
            return self._cluster.get(resources.core(metadata["namespace"], "pods", metadata["name"]))
        except NotFound:
            return {"status": {"phase": "Failed"}}
        except ApiError:
            return pod

    def _over(self) -> bool:
        if self._run != self._newest_run:
            return True
        now = find(self._cluster, self._finetune["metadata"]["name"])
        if now["metadata"]["uid"] != self._finetune["metadata"]["uid"] or now["spec"].get("run") != self._run:
            return True
        if not snapshot(now).over:
            return False
        # The run may have ended between the last look at the pods and now.
        pods = pods_of(self._cluster, self._finetune, self._run)
        return not self._readable(pods)

    def _why(self) -> str:
        now = snapshot(find(self._cluster, self._finetune["metadata"]["name"]))
        return now.message or now.reason or "the operator has said nothing of this run yet"

    def _nothing(self) -> CommandError:
        name = self._finetune["metadata"]["name"]
        if self._attempt is not None:
            return CommandError(
                f"run {self._run} of {name} has no attempt {self._attempt} with a log",
                "Leave --attempt out to see all.",
            )
        if snapshot(self._finetune).over or self._run != self._newest_run:
            return CommandError(
                f"the pods of run {self._run} of {name} are gone, and their logs with them",
                f"What the operator knows: kubectl finetune describe {name}. The losses are in metrics.jsonl: "
                f"kubectl finetune artifacts download {name}.",
            )
        return CommandError(f"no log yet: {self._why()}", f"Wait for it: kubectl finetune logs -f {name}")


def _log(namespace: str, pod: str) -> str:
    return f"{resources.core(namespace, 'pods', pod)}/log"
