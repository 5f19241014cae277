"""One pod's life on this node: a thread that brings the pod's processes to what its spec and its end ask for."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .api import STRATEGIC_PATCH, ApiError, KubeApi
from .container import Container
from .devices import Devices
from .environment import ConfigError, Host, Invocation, Variable, container_env, invocation
from .events import PodEvents
from .fields import FieldError
from .images import Image, ImageMapError, canonical, load_images
from .mounts import Mount, PathMap, mount_parents
from .process import ContainerProcess, StartError, kill_members
from .status import (
    PodView,
    Terminated,
    Waiting,
    finalize,
    finished,
    initialized,
    parse_timestamp,
    pod_status,
    restart_delay,
    wants_restart,
)
from .volumes import VolumeError, Volumes

log = logging.getLogger(__name__)

DEADLINE_EXCEEDED = "Pod was active on the node longer than the specified deadline"
NODE_SHUTDOWN = "Pod was terminated in response to imminent node shutdown."
_REFRESH_SECONDS = 60.0  # of volumes that follow objects; the kubelet's sync period
_RETRY_SECONDS = 1.0  # of a call that the API server did not answer
_VOLUME_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What all pods of a node share."""

    api: KubeApi
    name: str
    host: Host
    agent_id: str  # unique per state folder; starts the marker of every process
    folder: Path  # of all pods; a short path, see alias.py
    images: Path | None
    devices: Devices | None
    events: PodEvents
    backoff_base: float


@dataclass(frozen=True, slots=True)
class Ending:
    """Why and until when a pod's processes have to end. An empty reason: the pod is deleted."""

    reason: str
    message: str
    deadline: float  # monotonic


class PodLookup:
    """Secrets and ConfigMaps of one namespace."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def secret(self, name: str) -> Mapping[str, bytes] | None:
        return self._api.data("secrets", self._namespace, name)

    def config_map(self, name: str) -> Mapping[str, bytes] | None:
        return self._api.data("configmaps", self._namespace, name)


def refusal(pod: Mapping[str, Any]) -> str:
    """Why this node cannot run a pod at all; empty if it can."""
    for container in pod["spec"].get("initContainers") or ():
        if container.get("restartPolicy"):
            return f"sidecar container {container['name']} is not supported where pods run as processes"
    return ""


def not_honoured(pod: Mapping[str, Any]) -> list[str]:
    """Fields of the pod that this node leaves out, worth a warning."""
    fields = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicyRules")
    return [f"{c['name']}.{field}" for c in pod["spec"]["containers"] for field in fields if c.get(field)]


class PodWorker(threading.Thread):
    """Runs one pod. `update`, `gone` and `shut_down` are called by the agent; all else happens in this thread."""

    def __init__(self, node: NodeContext, pod: Mapping[str, Any], on_finished: Callable[[], None]) -> None:
        self.namespace: str = pod["metadata"]["namespace"]
        self.pod_name: str = pod["metadata"]["name"]
        self.uid: str = pod["metadata"]["uid"]
        super().__init__(name=f"pod-{self.namespace}-{self.pod_name}", daemon=True)
        self._node = node
        self._pod = pod
        self._on_finished = on_finished
        self._wake = threading.Event()
        self._gone = False
        self._shutdown_deadline: float | None = None  # monotonic
        self._ending: Ending | None = None
        self._final = False
        self._deleted = False
        self._folder = node.folder / self.uid
        self._volumes = Volumes(node.api, pod, self._folder / "vol", node.host)
        self._volumes_ready = False
        self._volumes_due = 0.0
        self._reason = self._message = ""
        self._previous: dict[str, Any] = dict(pod.get("status") or {})
        self._written: dict[str, Any] | None = None
        spec = pod["spec"]
        self._policy: str = spec.get("restartPolicy", "Always")
        has_init = bool(spec.get("initContainers"))
        self._init = [self._container(c, init=True, has_init=has_init) for c in spec.get("initContainers") or ()]
        self._main = [self._container(c, init=False, has_init=has_init) for c in spec["containers"]]

    def _container(self, spec: Mapping[str, Any], *, init: bool, has_init: bool) -> Container:
        container = Container(spec, self._folder / "containers" / spec["name"], init=init, has_init=has_init)
        kind = "initContainerStatuses" if init else "containerStatuses"
        for status in self._previous.get(kind) or ():
            if status["name"] == container.name:
                container.restore(status)
        return container

    # Called from other threads

    def update(self, pod: Mapping[str, Any]) -> None:
        """A newer version of the pod."""
        self._pod = pod
        self._wake.set()

    def gone(self) -> None:
        """The pod no longer exists in the API: its processes end now, and nothing is reported any more."""
        self._gone = True
        self._wake.set()

    def shut_down(self, grace: float) -> None:
        """The node shuts down: processes get at most `grace` seconds."""
        self._shutdown_deadline = time.monotonic() + grace
        self._wake.set()

    @property
    def deleted(self) -> bool:
        """Whether the API server was told that nothing of the pod is left."""
        return self._deleted

    @property
    def deleting(self) -> bool:
        """Whether somebody deleted the pod."""
        return "deletionTimestamp" in self._pod["metadata"]

    def delete(self) -> None:
        """Tells the API server that nothing of the deleted pod is left. Raises ApiError."""
        delete_now(self._node.api, self._pod)
        self._deleted = True

    def container(self, name: str) -> Container | None:
        """For the server: a container by name."""
        return next((c for c in self._all() if c.name == name), None)

    def limited(self) -> Iterator[tuple[ContainerProcess, int]]:
        """For the memory supervisor: running processes with their limits in bytes."""
        for container in self._all():
            process, limit = container.process, container.memory_limit
            if process is not None and process.exit is None and limit is not None:
                yield process, limit

    def remove_files(self) -> None:
        """Deletes everything of the pod on this host; hostPath and claimed volumes are not its own and stay."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # The thread

    def run(self) -> None:
        log.info("pod %s/%s starts", self.namespace, self.pod_name)
        try:
            self._admit()
            while not self._done():
                self._wake.clear()
                self._step()
                if not self._done():
                    self._wake.wait(self._pause())
        except Exception as error:
            log.exception("pod %s/%s: the agent failed", self.namespace, self.pod_name)
            self._give_up(f"the node agent failed: {type(error).__name__} (see its log)")
        finally:
            if self._node.devices is not None:
                self._node.devices.release(self.uid)
            log.info("pod %s/%s ended", self.namespace, self.pod_name)
            self._on_finished()

    def _give_up(self, message: str) -> None:
        """A defect of the agent must not look like a pod that runs."""
        self._kill_all()
        self._final, self._reason, self._message = True, "NodeAgentError", message
        try:
            self._publish()
            self._delete_when_final()
        except ApiError as error:
            log.error("pod %s/%s: %s", self.namespace, self.pod_name, error)

    def _admit(self) -> None:
        if message := refusal(self._pod):
            self._reason, self._message = "UnsupportedPodSpec", message
            self._event("Warning", "UnsupportedPodSpec", message)
            self._final = True
        elif fields := not_honoured(self._pod):
            self._event("Warning", "NotHonoured", f"not run where pods are processes: {', '.join(fields)}")

    def _done(self) -> bool:
        if self._running():
            return False
        if self._gone:
            return True
        return self._final and self._published() and (self._deleted or not self.deleting)

    def _step(self) -> None:
        try:
            self._collect()
            self._decide_ending()
            if self._ending is not None:
                self._end()
            elif not self._final:
                self._advance()
            self._publish()
            self._delete_when_final()
        except ApiError as error:
            if not error.temporary:
                raise
            if self._shutdown_deadline is not None:
                self._gone = not self._running()  # nobody is left to report to
            log.warning("pod %s/%s: %s", self.namespace, self.pod_name, error)

    def _pause(self) -> float:
        """Seconds until something is due; events wake the thread earlier."""
        now = time.monotonic()
        due = [now + _REFRESH_SECONDS]
        if not self._published() or (self._final and self.deleting and not self._deleted):
            due.append(now + _RETRY_SECONDS)
        if self._ending is not None:
            due.append(max(self._ending.deadline, now + 0.1))
        else:
            due += [c.not_before for c in self._all() if not c.running and c.not_before > now]
            if not self._volumes_ready or self._volumes.live:
                due.append(self._volumes_due)
            if (deadline := self._active_deadline()) is not None:
                due.append(now + (deadline - datetime.now(UTC)).total_seconds())
        return max(min(due) - now, 0.01)

    # Ends

    def _collect(self) -> None:
        for container in self._all():
            if container.collect() is not None and isinstance(container.state, Terminated):
                delay = restart_delay(container.failures, self._node.backoff_base)
                container.retry_after(delay)

    def _decide_ending(self) -> None:
        now = time.monotonic()
        if self._gone:
            self._begin_ending(Ending("", "", now))
        elif self.deleting and not self._final:
            grace = float(self._pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            self._begin_ending(Ending("", "", now + grace))
        if self._final:
            return
        if self._shutdown_deadline is not None:
            deadline = min(now + self._grace(), self._shutdown_deadline)
            self._begin_ending(Ending("Terminated", NODE_SHUTDOWN, deadline))
        active_until = self._active_deadline()
        if self._ending is None and active_until is not None and datetime.now(UTC) >= active_until:
            self._begin_ending(Ending("DeadlineExceeded", DEADLINE_EXCEEDED, now + self._grace()))
            self._event("Normal", "DeadlineExceeded", DEADLINE_EXCEEDED)

    def _begin_ending(self, ending: Ending) -> None:
        """The first reason stays; a later call can only bring the end nearer."""
        if self._ending is not None:
            self._ending = replace(self._ending, deadline=min(self._ending.deadline, ending.deadline))
            return
        self._ending = ending
        for container in self._running():
            if container.process is not None:
                container.process.terminate()
            self._event("Normal", "Killing", f"Stopping container {container.name}", container)

    def _end(self) -> None:
        assert self._ending is not None
        if self._running() and time.monotonic() >= self._ending.deadline:
            self._kill_all()
        if not self._running() and not self._final:
            self._reason, self._message = self._ending.reason, self._ending.message
            self._final = True

    def _kill_all(self) -> None:
        for container in self._all():
            if container.process is not None:
                container.process.kill()

    def _active_deadline(self) -> datetime | None:
        seconds = self._pod["spec"].get("activeDeadlineSeconds")
        start = parse_timestamp(self._previous.get("startTime"))
        if seconds is None or start is None:
            return None
        return datetime.fromtimestamp(start.timestamp() + seconds, UTC)

    def _grace(self) -> float:
        seconds = self._pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if seconds is None else float(seconds)

    # Progress

    def _advance(self) -> None:
        if self._previous.get("startTime") is None:
            self._publish()  # as the kubelet: a pod that waits for its volumes has a start time
        if not self._prepare_volumes():
            return
        for container in self._init:
            if not container.succeeded:
                self._keep_running(container)
                break
        else:
            for container in self._main:
                self._keep_running(container)
        if finished(self._policy, self._view()):
            self._final = True

    def _prepare_volumes(self) -> bool:
        now = time.monotonic()
        if now < self._volumes_due or (self._volumes_ready and not self._volumes.live):
            return self._volumes_ready
        try:
            self._volumes.prepare(self._pod)
        except (VolumeError, ApiError) as error:
            self._volumes_due = now + _VOLUME_RETRY_SECONDS
            if not self._volumes_ready:
                self._event("Warning", "FailedMount", str(error))
            return self._volumes_ready
        self._volumes_ready = True
        self._volumes_due = now + _REFRESH_SECONDS
        return True

    def _keep_running(self, container: Container) -> None:
        if container.running:
            return
        if isinstance(container.state, Terminated):
            if not wants_restart(self._policy, container.state, init=container.init):
                return
            if time.monotonic() < container.not_before:
                delay = restart_delay(container.failures, self._node.backoff_base)
                identity = f"pod={self.pod_name}_{self.namespace}({self.uid})"
                message = f"back-off {delay:.0f}s restarting failed container={container.name} {identity}"
                container.wait_with("CrashLoopBackOff", message)
                self._event("Warning", "BackOff", f"Back-off restarting failed container {container.name}", container)
        if time.monotonic() >= container.not_before:
            self._start(container)

    def _start(self, container: Container) -> None:
        try:
            image = self._image(container)
            if image is None and not container.spec.get("command"):
                self._pull_failed(container)
                return
            plan = self._plan(container, image)
        except (ConfigError, FieldError, VolumeError, ImageMapError, LookupError, ApiError) as error:
            container.wait_with("CreateContainerConfigError", str(error))
            container.retry_after(_VOLUME_RETRY_SECONDS)
            self._event("Warning", "Failed", f"Error: {error}", container)
            return
        identity = uuid.uuid4().hex
        try:
            log_file = container.new_run()
            cwd = self._working_dir(container, plan)
            marker = f"{self._node.agent_id}/{identity}"
            process = ContainerProcess(plan.argv, plan.env, cwd, log_file, marker, self._wake.set)
        except (StartError, OSError) as error:
            container.failed_to_start(f"failed to start the process: {error}", f"process://{identity}")
            container.retry_after(restart_delay(container.failures, self._node.backoff_base))
            self._event("Warning", "Failed", f"Error: failed to start the process: {error}", container)
            self._wake.set()
            return
        container.started(process, f"process://{identity}")
        self._event("Normal", "Started", f"Started container {container.name}", container)

    def _image(self, container: Container) -> Image | None:
        return load_images(self._node.images).get(canonical(str(container.spec.get("image", ""))))

    def _pull_failed(self, container: Container) -> None:
        image = container.spec["image"]
        missing = f"image {image} is not in this node's image map and the container has no command"
        if container.pull_failures % 2 == 0:
            container.wait_with("ErrImagePull", f'failed to pull and unpack image "{image}": {missing}')
            self._event("Warning", "Failed", f'Failed to pull image "{image}": {missing}', container)
        else:
            container.wait_with("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {missing}')
            self._event("Normal", "BackOff", f'Back-off pulling image "{image}"', container)
        container.pull_failures += 1
        container.retry_after(restart_delay(container.pull_failures + 1, self._node.backoff_base) / 2)

    def _plan(self, container: Container, image: Image | None) -> Invocation:
        lookup = PodLookup(self._node.api, self.namespace)
        variables = container_env(self._pod, container.spec, self._node.host, lookup)
        plain = {name: variable.value for name, variable in variables.items()}
        mounts = self._volumes.mounts(container.spec, plain)
        message_path = container.spec.get("terminationMessagePath") or "/dev/termination-log"
        mounts.append(Mount(message_path, container.termination_log))
        mounts += mount_parents(container.folder / "mounts", mounts)
        return invocation(container.spec, image, variables, self._base_env(container, variables), PathMap(mounts))

    def _base_env(self, container: Container, variables: Mapping[str, Variable]) -> dict[str, str]:
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOSTNAME": self.pod_name,
            "HOME": str(container.scratch),
            "TMPDIR": str(container.scratch / "tmp"),
        }
        devices = self._node.devices
        if devices is not None and "CUDA_VISIBLE_DEVICES" not in variables:
            limits = (container.spec.get("resources") or {}).get("limits") or {}
            held = devices.allocate(self.uid, container.name, int(limits.get(devices.resource, 0)))
            env["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        return env

    def _working_dir(self, container: Container, plan: Invocation) -> Path:
        if not plan.working_dir:
            return container.scratch
        path = Path(plan.working_dir)
        if not path.is_dir():
            raise StartError(f"working directory {plan.working_dir} does not exist on this host and is not a mount")
        return path

    # Reports

    def _all(self) -> list[Container]:
        return [*self._init, *self._main]

    def _running(self) -> list[Container]:
        return [container for container in self._all() if container.running]

    def _view(self) -> PodView:
        init = tuple(container.view for container in self._init)
        main = tuple(container.view for container in self._main)
        if not self._final and not initialized(init):
            main = tuple(replace(c, state=Waiting("PodInitializing")) if c.last is None else c for c in main)
        view = PodView(
            containers=main,
            init=init,
            sandbox_ready=self._volumes_ready,
            reason=self._reason,
            message=self._message,
            conditions=self._further_conditions(),
        )
        return finalize(view, datetime.now(UTC)) if self._final else view

    def _further_conditions(self) -> tuple[Mapping[str, str], ...]:
        if self._reason != "Terminated":
            return ()
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        return ({**condition, "message": NODE_SHUTDOWN},)

    def _published(self) -> bool:
        return self._written is not None and self._written == self._key(self._view())

    @staticmethod
    def _key(view: PodView) -> dict[str, Any]:
        """What makes a status worth writing: everything but the times that `finalize` invents."""
        return {"view": view if not view.final else replace(view, containers=(), init=()), "final": view.final}

    def _publish(self) -> None:
        view = self._view()
        if self._gone or self._written == self._key(view):
            return
        status = pod_status(
            self._pod, view, previous=self._previous, address=self._node.host.address, now=datetime.now(UTC)
        )
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod_name}/status"
        body = {"metadata": {"uid": self.uid}, "status": status}
        try:
            self._node.api.request("PATCH", path, body, content_type=STRATEGIC_PATCH)
        except ApiError as error:
            if error.code in (404, 409):
                log.info("pod %s/%s no longer exists", self.namespace, self.pod_name)
                self.gone()
                return
            raise
        self._previous = status
        self._written = self._key(view)

    def _delete_when_final(self) -> None:
        """The last word of a deleted pod: from here on only finalizers keep the object."""
        if not self._final or not self.deleting or self._deleted or self._gone or not self._published():
            return
        self.delete()

    def _event(self, kind: str, reason: str, message: str, container: Container | None = None) -> None:
        field = ""
        if container is not None:
            field = f"spec.{'initContainers' if container.init else 'containers'}{{{container.name}}}"
        self._node.events.record(self._pod, kind, reason, message, field)


def delete_now(api: KubeApi, pod: Mapping[str, Any]) -> None:
    """Deletes the pod object at once, as the kubelet does when nothing runs any more. Raises ApiError."""
    metadata = pod["metadata"]
    body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": metadata["uid"]},
    }
    try:
        api.request("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", body)
    except ApiError as error:
        if error.code not in (404, 409):
            raise


def sweep(agent_id: str) -> None:
    """Kills every process that an earlier agent with the same state folder left behind."""
    kill_members(f"{agent_id}/")
