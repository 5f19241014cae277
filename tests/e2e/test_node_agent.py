"""The node agent on a real control plane: what a Job sees must be what a kubelet would show it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import binary
from tests.cluster.control_plane import ControlPlane, KubectlError
from tests.cluster.daemon import Daemon, direct_environment
from tests.cluster.paths import CHECKOUT

NODE = "process-node"
IMAGE = "example.test/greeter:1"
PYTHON = "example.test/python"


class Cluster:
    """A control plane with a node agent, and the questions that the tests ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plane = ControlPlane(folder / "plane", scheduler=True)
        self.images = folder / "images.json"

    def start(self) -> None:
        self.plane.start()
        identity = self.plane.authority.issue(
            "node", f"system:node:{NODE}", organizations=["system:nodes"], hosts=["127.0.0.1", NODE]
        )
        greeting = "import os; print(os.environ['GREETING'], os.getcwd())"
        entry = {
            "command": [sys.executable, "-c", greeting],
            "env": {"GREETING": "hello"},
            "workingDir": str(self.folder),
        }
        self.images.write_text(json.dumps({IMAGE: entry, PYTHON: {"command": [sys.executable]}}))
        command = [sys.executable, "-m", "tests.cluster.node_agent", "--name", NODE, "--restart-backoff", "2"]
        command += ["--kubeconfig", str(self.plane.kubeconfig_for("node", identity)), "--state", str(folder_of(self))]
        command += ["--images", str(self.images), "--extended-resource", "nvidia.com/gpu=2"]
        command += ["--tls-cert", str(identity.certificate), "--tls-key", str(identity.key)]
        command += ["--client-ca", str(self.plane.authority.certificate)]
        self.agent = Daemon("node-agent", command, folder=self.folder, env={"PYTHONPATH": str(CHECKOUT)})
        self.agent.start()
        self.agent.wait_until(lambda: self.node_is("True"), 60, "registered")

    def stop(self) -> None:
        if hasattr(self, "agent"):
            self.agent.stop(timeout=20)
        self.plane.stop()

    def node_is(self, ready: str) -> bool:
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        try:
            return self.plane.kubectl("get", "node", NODE, "-o", f"jsonpath={path}") == ready
        except KubectlError:
            return False

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        found = self.plane.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def wait(
        self, kind: str, name: str, reached: Callable[[dict[str, Any]], Any], timeout: float = 60.0
    ) -> dict[str, Any]:
        """The object once `reached` holds for it."""
        deadline = time.monotonic() + timeout
        seen = None
        while time.monotonic() < deadline:
            seen = self.get(kind, name)
            if seen is not None and reached(seen):
                return seen
            time.sleep(0.1)
        raise AssertionError(f"{kind} {name} never got there; last seen: {json.dumps(seen, indent=1)[:4000]}")

    def wait_gone(self, kind: str, name: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while self.get(kind, name) is not None:
            assert time.monotonic() < deadline, f"{kind} {name} is still there"
            time.sleep(0.1)

    def run_pod(self, name: str, script: str = "", **spec: Any) -> None:
        """Creates a pod with one container `main`; keys in `container` are added to it."""
        container = {"name": "main", "image": "example.test/unknown", **spec.pop("container", {})}
        if script:
            container["command"] = ["sh", "-c", script]
        annotations = spec.pop("annotations", {})
        self.plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": {"restartPolicy": "Never", "containers": [container], **spec},
            }
        )

    def job_pods(self, job: str) -> list[dict[str, Any]]:
        out = self.plane.kubectl("get", "pods", "-l", f"batch.kubernetes.io/job-name={job}", "-o", "json")
        pods: list[dict[str, Any]] = json.loads(out)["items"]
        return pods

    def finished(self, name: str, timeout: float = 60.0) -> dict[str, Any]:
        return self.wait("pod", name, lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), timeout)

    def logs(self, *arguments: str) -> str:
        return self.plane.kubectl("logs", *arguments)


def kubectl() -> str:
    return str(binary.kubernetes() / "kubectl")


def folder_of(cluster: Cluster) -> Path:
    return cluster.folder / "agent-state"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("node"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def state(pod: dict[str, Any], name: str = "main") -> dict[str, Any]:
    """The container's current state."""
    statuses = (pod["status"].get("containerStatuses") or []) + (pod["status"].get("initContainerStatuses") or [])
    return next((s["state"] for s in statuses if s["name"] == name), {})


def terminated(pod: dict[str, Any], name: str = "main") -> dict[str, Any]:
    ended: dict[str, Any] = state(pod, name)["terminated"]
    return ended


def conditions(thing: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in thing["status"].get("conditions") or ()}


def processes_with(text: str) -> list[int]:
    """Pids whose command line holds `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def job(name: str, script: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "example.test/unknown", "command": ["sh", "-c", script]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": template, **spec},
    }


def test_node_is_ready_and_offers_its_resources(cluster: Cluster) -> None:
    node = cluster.wait("node", NODE, lambda node: not node["spec"].get("taints"))
    assert conditions(node)["Ready"] == "True"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    lease = json.loads(cluster.plane.kubectl("get", "lease", NODE, "-n", "kube-node-lease", "-o", "json"))
    assert lease["spec"]["leaseDurationSeconds"] == 40


def test_job_completes(cluster: Cluster) -> None:
    cluster.plane.apply(job("well", "echo working; echo all is well > /dev/termination-log"))
    done = cluster.wait("job", "well", lambda job: conditions(job).get("Complete") == "True")
    assert done["status"]["succeeded"] == 1
    (pod,) = cluster.job_pods("well")
    ended = terminated(pod)
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "all is well\n")
    assert pod["status"]["phase"] == "Succeeded"
    assert cluster.logs("job/well") == "working\n"


def test_exit_code_fails_the_job_by_its_policy(cluster: Cluster) -> None:
    on_two = {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [2, 3]}}
    cluster.plane.apply(job("bad-config", "exit 2", backoffLimit=5, podFailurePolicy={"rules": [on_two]}))
    failed = cluster.wait("job", "bad-config", lambda job: conditions(job).get("Failed") == "True")
    assert failed["status"]["failed"] == 1
    reasons = {c["type"]: c["reason"] for c in failed["status"]["conditions"]}
    assert reasons["Failed"] == "PodFailurePolicy"
    (pod,) = cluster.job_pods("bad-config")
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (2, "Error")


def test_deletion_lets_the_process_finish_within_its_grace(cluster: Cluster, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    script = f"trap 'sleep 1; touch {saved}; exit 75' TERM; echo ready; while true; do sleep 0.1; done"
    cluster.plane.apply(job("preempted", script, backoffLimit=3, podReplacementPolicy="Failed"))
    deadline = time.monotonic() + 30
    while not (pods := cluster.job_pods("preempted")) or "running" not in state(pods[0]):
        assert time.monotonic() < deadline, pods
        time.sleep(0.1)
    name = pods[0]["metadata"]["name"]
    while cluster.logs(name) != "ready\n":
        time.sleep(0.1)
    cluster.plane.kubectl("delete", "pod", name, "--grace-period=20", "--wait=false")
    counted = cluster.wait("job", "preempted", lambda job: job["status"].get("failed") == 1)
    assert counted["status"]["failed"] == 1
    assert saved.exists()
    cluster.wait_gone("pod", name)
    cluster.plane.kubectl("delete", "job", "preempted", "--cascade=foreground", "--timeout=60s")


def test_process_that_ignores_sigterm_is_killed_with_its_children(cluster: Cluster) -> None:
    script = "trap '' TERM; setsid sleep 98765 & echo ready; while true; do sleep 0.2; done"
    cluster.run_pod("stubborn", script, terminationGracePeriodSeconds=2)
    cluster.wait("pod", "stubborn", lambda pod: "running" in state(pod))
    while cluster.logs("stubborn") != "ready\n":
        time.sleep(0.1)
    watch = subprocess.Popen(
        [kubectl(), "--kubeconfig", str(cluster.plane.kubeconfig), "get", "pod", "stubborn", "-w", "-o", "json"],
        stdout=subprocess.PIPE,
        env=direct_environment(),
    )
    start = time.monotonic()
    try:
        cluster.plane.kubectl("delete", "pod", "stubborn", "--timeout=30s")
    finally:
        watch.terminate()
        seen, _ = watch.communicate()
    assert 1.5 < time.monotonic() - start < 8
    last = list(documents(seen.decode()))[-1]
    assert terminated(last)["exitCode"] == 137
    assert last["status"]["phase"] == "Failed"
    assert processes_with("sleep\x0098765") == []


def documents(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        while text[at].isspace():
            at += 1
        document, at = decoder.raw_decode(text, at)
        yield document


def test_logs_are_followed_to_the_end(cluster: Cluster) -> None:
    cluster.run_pod("talker", "for i in 1 2 3; do echo line $i; sleep 0.7; done; printf unfinished; echo oops >&2")
    cluster.wait("pod", "talker", lambda pod: "running" in state(pod))
    started = time.monotonic()
    assert cluster.logs("-f", "talker") == "line 1\nline 2\nline 3\nunfinishedoops\n"
    assert time.monotonic() - started > 0.7
    cluster.finished("talker")
    assert cluster.logs("talker", "--tail=2") == "line 3\nunfinishedoops\n"
    assert cluster.logs("talker", "--limit-bytes=8") == "line 1\nl"
    stamp, _, text = cluster.logs("talker", "--timestamps").splitlines()[0].partition(" ")
    assert text == "line 1"
    assert stamp.startswith(time.strftime("%Y-", time.gmtime()))
    assert cluster.logs("talker", "--since=1h").startswith("line 1\n")


def test_logs_are_given_to_the_api_server_alone(cluster: Cluster) -> None:
    cluster.run_pod("private", "echo mine")
    cluster.finished("private")
    node = cluster.get("node", NODE)
    assert node is not None
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    authority = ssl.create_default_context(cafile=str(cluster.plane.authority.certificate))
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=authority, trust_env=False) as anyone:
        assert anyone.get("/healthz").text == "ok"
        refused = anyone.get("/containerLogs/default/private/main")
    assert refused.status_code == 401
    assert "mine" not in refused.text


def test_claim_is_a_folder_that_outlives_the_pod(cluster: Cluster, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    cluster.plane.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "disk"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": str(disk)},
                "storageClassName": "",
                "claimRef": {"name": "disk", "namespace": "default"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "disk", "namespace": "default"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )
    volumes = [{"name": "storage", "persistentVolumeClaim": {"claimName": "disk"}}]
    mounts = [{"name": "storage", "mountPath": "/finetune/storage"}]
    env = [{"name": "RUN_DIR", "value": "/finetune/storage/run-1"}]
    container = {"volumeMounts": mounts, "env": env}
    cluster.run_pod(
        "writer", 'mkdir -p "$RUN_DIR" && echo kept > /finetune/storage/run-1/out', volumes=volumes, container=container
    )
    assert cluster.finished("writer")["status"]["phase"] == "Succeeded"
    cluster.plane.kubectl("delete", "pod", "writer")
    assert (disk / "run-1" / "out").read_text() == "kept\n"
    cluster.run_pod("reader", 'cat "$RUN_DIR/out"', volumes=volumes, container=container)
    assert cluster.finished("reader")["status"]["phase"] == "Succeeded"
    assert cluster.logs("reader") == "kept\n"


def test_projected_token_is_accepted_for_its_audience_only(cluster: Cluster) -> None:
    token = {"serviceAccountToken": {"path": "token", "audience": "finetune-progress", "expirationSeconds": 3600}}
    root = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    cluster.run_pod(
        "reporter",
        'echo "$(cat "$TOKEN")"; test -s "$CA"; sleep 60',
        volumes=[{"name": "access", "projected": {"sources": [token, root]}}],
        container={
            "volumeMounts": [{"name": "access", "mountPath": "/var/run/progress", "readOnly": True}],
            "env": [
                {"name": "TOKEN", "value": "/var/run/progress/token"},
                {"name": "CA", "value": "/var/run/progress/ca.crt"},
            ],
        },
        terminationGracePeriodSeconds=1,
    )
    cluster.wait("pod", "reporter", lambda pod: "running" in state(pod))
    while not (text := cluster.logs("reporter").strip()):
        time.sleep(0.1)

    def review(audience: str) -> dict[str, Any]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": text, "audiences": [audience]},
        }
        answer = cluster.plane.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(body))
        status: dict[str, Any] = json.loads(answer)["status"]
        return status

    accepted = review("finetune-progress")
    assert accepted["authenticated"] is True
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["reporter"]
    assert not review("something-else").get("authenticated")
    cluster.plane.kubectl("delete", "pod", "reporter")


def test_downward_api_gives_files_and_variables(cluster: Cluster) -> None:
    config = '{"schemaVersion": 1, "text": "a \\"quoted\\" word\\n"}'
    items = [
        {
            "path": "config.json",
            "fieldRef": {"fieldPath": "metadata.annotations['finetune.dev/config']"},
            "mode": 0o400,
        },
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
    ]
    limit = {"resource": "limits.memory", "divisor": "1Mi"}
    cluster.run_pod(
        "config",
        'cat "$FILE"; echo; echo "$NAME $MEMORY $GREETING" "$(CONFIG)/x"; stat -Lc %a "$FILE"',
        annotations={"finetune.dev/config": config},
        volumes=[{"name": "config", "downwardAPI": {"items": items}}],
        container={
            "volumeMounts": [{"name": "config", "mountPath": "/etc/finetune"}],
            "resources": {"limits": {"memory": "512Mi"}},
            "env": [
                {"name": "FILE", "value": "/etc/finetune/config.json"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "MEMORY", "valueFrom": {"resourceFieldRef": limit}},
                {"name": "GREETING", "value": "I am $(NAME), not $(NOBODY) or $$(NAME)"},
                {"name": "CONFIG", "value": "C"},
            ],
        },
    )
    assert cluster.finished("config")["status"]["phase"] == "Succeeded"
    first, second, third = cluster.logs("config").splitlines()
    assert json.loads(first) == json.loads(config)
    assert second == "config 512 I am config, not $(NOBODY) or $(NAME) C/x"
    assert third == "400"


def test_growing_process_is_killed_as_out_of_memory(cluster: Cluster) -> None:
    grow = "x = []\nimport time\nwhile True: x.append(bytearray(b'x' * 10_000_000)); time.sleep(0.02)"
    cluster.run_pod(
        "greedy",
        container={"command": [sys.executable, "-c", grow], "resources": {"limits": {"memory": "200Mi"}}},
    )
    ended = terminated(cluster.finished("greedy"))
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_unknown_image_waits_as_for_a_kubelet(cluster: Cluster) -> None:
    cluster.run_pod("no-image", container={"image": "example.test/nowhere:9"})
    pod = cluster.wait("pod", "no-image", lambda pod: "waiting" in state(pod) and "Image" in json.dumps(state(pod)))
    assert state(pod)["waiting"]["reason"] == "ErrImagePull"
    assert "example.test/nowhere:9" in state(pod)["waiting"]["message"]
    cluster.wait("pod", "no-image", lambda pod: state(pod)["waiting"]["reason"] == "ImagePullBackOff")
    assert cluster.get("pod", "no-image")["status"]["phase"] == "Pending"  # type: ignore[index]
    cluster.plane.kubectl("delete", "pod", "no-image")


def test_known_image_runs_its_entrypoint(cluster: Cluster) -> None:
    cluster.run_pod("greeter", container={"image": IMAGE})
    assert cluster.finished("greeter")["status"]["phase"] == "Succeeded"
    assert cluster.logs("greeter") == f"hello {cluster.folder}\n"


def test_missing_program_is_a_start_error(cluster: Cluster) -> None:
    cluster.run_pod("no-program", container={"command": ["/no/such/program"]})
    ended = terminated(cluster.finished("no-program"))
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "/no/such/program" in ended["message"]


def test_missing_secret_is_named_and_waited_for(cluster: Cluster) -> None:
    secret = {"name": "reader", "key": "token"}
    cluster.run_pod(
        "needs-secret",
        'echo "$TOKEN" "$(cat /secrets/token)"',
        volumes=[{"name": "secrets", "secret": {"secretName": "files"}}],
        container={
            "volumeMounts": [{"name": "secrets", "mountPath": "/secrets"}],
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": secret}}],
        },
    )
    pod = cluster.wait("pod", "needs-secret", lambda pod: state(pod))
    assert state(pod)["waiting"]["reason"] == "ContainerCreating"

    def event() -> str:
        query = ["events", "--field-selector", "involvedObject.name=needs-secret,reason=FailedMount"]
        return cluster.plane.kubectl("get", *query, "-o", "jsonpath={.items[*].message}")

    while 'secret "files" not found' not in event():
        time.sleep(0.2)
    cluster.plane.kubectl("create", "secret", "generic", "files", "--from-literal=token=from-a-file")
    pod = cluster.wait("pod", "needs-secret", lambda pod: "Config" in json.dumps(state(pod)))
    assert state(pod)["waiting"] == {"reason": "CreateContainerConfigError", "message": 'secret "reader" not found'}
    cluster.plane.kubectl("create", "secret", "generic", "reader", "--from-literal=token=/secrets/looks-like-a-path")
    assert cluster.finished("needs-secret")["status"]["phase"] == "Succeeded"
    assert cluster.logs("needs-secret") == "/secrets/looks-like-a-path from-a-file\n"


def test_init_containers_run_in_order_and_share_volumes(cluster: Cluster) -> None:
    shared = {"volumeMounts": [{"name": "work", "mountPath": "/shared"}], "image": "example.test/unknown"}
    init = [
        {"name": "one", "command": ["sh", "-c", "echo one > /shared/steps"], **shared},
        {"name": "two", "command": ["sh", "-c", "echo two >> /shared/steps"], **shared},
    ]
    cluster.run_pod(
        "staged",
        "cat /shared/steps; pwd",
        volumes=[{"name": "work", "emptyDir": {}}],
        initContainers=init,
        container={**shared, "workingDir": "/shared"},
    )
    pod = cluster.finished("staged")
    assert pod["status"]["phase"] == "Succeeded"
    steps, cwd = cluster.logs("staged", "-c", "main").rsplit("\n", 2)[:2]
    assert steps == "one\ntwo"
    assert cwd.startswith(str(folder_of(cluster)))
    assert terminated(pod, "one")["finishedAt"] <= terminated(pod, "two")["finishedAt"]


def test_failing_container_is_restarted_with_back_off(cluster: Cluster) -> None:
    cluster.run_pod("crasher", "echo again; exit 1", restartPolicy="OnFailure")
    pod = cluster.wait(
        "pod", "crasher", lambda pod: state(pod).get("waiting", {}).get("reason") == "CrashLoopBackOff", timeout=30
    )
    status = pod["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert pod["status"]["phase"] == "Running"
    assert cluster.logs("crasher", "--previous") == "again\n"
    cluster.plane.kubectl("delete", "pod", "crasher")


def test_active_deadline_ends_the_pod(cluster: Cluster) -> None:
    cluster.run_pod("slow", "sleep 60", activeDeadlineSeconds=2, terminationGracePeriodSeconds=1)
    pod = cluster.finished("slow")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert terminated(pod)["exitCode"] == 143


def test_eviction_is_a_disruption_that_the_job_does_not_count(cluster: Cluster) -> None:
    ignore = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    cluster.plane.apply(job("evicted", "sleep 300", backoffLimit=0, podFailurePolicy={"rules": [ignore]}))
    deadline = time.monotonic() + 30
    while not (pods := cluster.job_pods("evicted")) or "running" not in state(pods[0]):
        assert time.monotonic() < deadline, pods
        time.sleep(0.1)
    name = pods[0]["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 5},
    }
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    cluster.plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    cluster.wait_gone("pod", name)
    while {p["metadata"]["name"] for p in cluster.job_pods("evicted")} <= {name}:
        assert time.monotonic() < deadline + 30
        time.sleep(0.2)
    assert not cluster.get("job", "evicted")["status"].get("failed")  # type: ignore[index]
    cluster.plane.kubectl("delete", "job", "evicted", "--cascade=foreground", "--timeout=60s")


def test_gpus_are_handed_out_by_index(cluster: Cluster) -> None:
    script = 'echo "gpu=$CUDA_VISIBLE_DEVICES"; sleep 2'
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    cluster.run_pod("gpu-a", script, container=gpu)
    cluster.run_pod("gpu-b", script, container=gpu)
    cluster.run_pod("gpu-none", script)
    for name in ("gpu-a", "gpu-b", "gpu-none"):
        cluster.finished(name)
    assert {cluster.logs("gpu-a"), cluster.logs("gpu-b")} == {"gpu=0\n", "gpu=1\n"}
    assert cluster.logs("gpu-none") == "gpu=\n"


def test_files_of_a_deleted_pod_are_removed(cluster: Cluster) -> None:
    cluster.run_pod("short", "true")
    uid = cluster.finished("short")["metadata"]["uid"]
    folder = folder_of(cluster) / "pods" / uid
    assert folder.is_dir()
    cluster.plane.kubectl("delete", "pod", "short")
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_sockets_fit_below_the_temporary_folder(cluster: Cluster) -> None:
    listen = "from multiprocessing.connection import Listener; print(Listener(family='AF_UNIX').address)"
    cluster.run_pod(
        "listener",
        volumes=[{"name": "scratch", "emptyDir": {}}],
        container={
            "image": PYTHON,  # a command of the pod itself below /tmp would be looked for in the volume
            "args": ["-c", listen],
            "env": [{"name": "TMPDIR", "value": "/tmp"}],
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
        },
    )
    assert cluster.finished("listener")["status"]["phase"] == "Succeeded", cluster.logs("listener")


def test_end_during_an_outage_of_the_api_server_is_reported_after_it(cluster: Cluster, tmp_path: Path) -> None:
    finish = tmp_path / "finish"
    cluster.run_pod("survivor", f"until [ -e {finish} ]; do sleep 0.1; done; exit 3")
    cluster.wait("pod", "survivor", lambda pod: "running" in state(pod))
    cluster.plane.kill_apiserver()
    finish.touch()
    time.sleep(2)
    cluster.plane.start_apiserver()
    assert terminated(cluster.finished("survivor"))["exitCode"] == 3
    cluster.run_pod("afterwards", "true")
    assert cluster.finished("afterwards")["status"]["phase"] == "Succeeded"


def test_killed_agent_leaves_no_process_and_reports_the_loss(cluster: Cluster) -> None:
    cluster.run_pod("interrupted", "echo before; setsid sleep 87654 & sleep 87654")
    cluster.wait("pod", "interrupted", lambda pod: "running" in state(pod))
    while len(processes_with("sleep\x0087654")) < 2:
        time.sleep(0.1)
    cluster.agent.kill()
    cluster.agent.start()
    pod = cluster.finished("interrupted")
    assert pod["status"]["phase"] == "Failed"
    assert (terminated(pod)["exitCode"], terminated(pod)["reason"]) == (137, "ContainerStatusUnknown")
    assert processes_with("sleep\x0087654") == []
    assert cluster.logs("interrupted") == "before\n"


def test_agent_that_is_stopped_ends_its_pods_first(cluster: Cluster) -> None:
    cluster.run_pod("evacuated", "trap 'exit 75' TERM; echo ready; while true; do sleep 0.1; done")
    cluster.wait("pod", "evacuated", lambda pod: "running" in state(pod))
    while cluster.logs("evacuated") != "ready\n":
        time.sleep(0.1)
    cluster.agent.stop(timeout=20)
    pod = cluster.get("pod", "evacuated")
    assert pod is not None
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Terminated")
    assert terminated(pod)["exitCode"] == 75
    assert conditions(pod)["DisruptionTarget"] == "True"
    assert cluster.node_is("False")
    cluster.agent.start()
    cluster.agent.wait_until(lambda: cluster.node_is("True"), 30, "registered again")
