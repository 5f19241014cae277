"""A real Kubernetes control plane as child processes: etcd and kube-apiserver, and on request the controllers.

Needs no root, listens on one address, keeps everything in one folder, and any number can run side by side.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, build_opener

from tests.cluster import binary
from tests.cluster.daemon import Daemon
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.pki import Authority, KeyPair
from tests.cluster.ports import free_port

__all__ = ["ControlPlane", "KubectlError"]

SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"  # the `kubernetes` Service
ISSUER = "https://kubernetes.default.svc.cluster.local"
# With watches open an API server that was told to end takes its full minute: it is killed after this long.
DRAIN_SECONDS = 3.0
START_TIMEOUT_SECONDS = 90.0  # ready in 3-4 s on a quiet machine; a loaded one gets its time


class ControlPlane:
    """The control plane; a context manager, or `start()` and `stop()`.

    `address` is where the API server listens and what its certificate names, besides 127.0.0.1.
    `apiserver_flags` come last and so win over the defaults.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        controller_manager: bool = True,
        scheduler: bool = False,
        address: str = "127.0.0.1",
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.address = address
        self.kubeconfig = self.state_dir / "kubeconfig"
        self._with_controller_manager = controller_manager
        self._with_scheduler = scheduler
        self._apiserver_flags = list(apiserver_flags)

    # Life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and returns when the API answers and, with controllers, pods can be created.

        Raises ClusterError with the end of the log of the component that failed.
        """
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._programs = binary.kubernetes()
        self.port = free_port(self.address)
        self.url = f"https://{self.address}:{self.port}"
        self._issue_certificates()
        self.etcd = self._daemon("etcd", self._etcd_flags())
        self.apiserver = self._daemon("kube-apiserver", self._kube_apiserver_flags())
        self.controller_manager = self._daemon("kube-controller-manager", self._kube_controller_manager_flags())
        self.scheduler = self._daemon("kube-scheduler", self._kube_scheduler_flags())
        try:
            self._start_components()
        except BaseException:
            self.stop()
            raise

    def _start_components(self) -> None:
        socket = self.state_dir / "etcd.sock"
        socket.unlink(missing_ok=True)
        self.etcd.start()
        self.etcd.wait_until(socket.exists, START_TIMEOUT_SECONDS, "listening")
        self.start_apiserver()
        # Only now: started before the bootstrap roles exist, the controller manager gives up for good.
        if self._with_controller_manager:
            self.controller_manager.start()
        if self._with_scheduler:
            self.scheduler.start()
        if self._with_controller_manager:
            # Without its service account no pod is admitted.
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.controller_manager.wait_until(
                lambda: self.find(account) is not None, START_TIMEOUT_SECONDS, "creating service accounts"
            )

    def stop(self) -> None:
        """Stops everything, controllers first; the folder stays."""
        for daemon in (self.scheduler, self.controller_manager):
            daemon.stop()
        self.apiserver.stop(DRAIN_SECONDS)
        self.etcd.stop()

    # Faults

    def start_apiserver(self) -> None:
        """Starts the API server and waits until it is ready; it keeps its port and data."""
        self.apiserver.start()
        self.apiserver.wait_until(self.ready, START_TIMEOUT_SECONDS)

    def restart_apiserver(self) -> None:
        """Stops the API server in order, starts it again and waits until it is ready."""
        self.apiserver.stop(DRAIN_SECONDS)
        self.start_apiserver()

    def kill_apiserver(self) -> None:
        """Kills the API server with SIGKILL and leaves it dead until `start_apiserver`."""
        self.apiserver.kill()

    def pause_apiserver(self) -> None:
        """Freezes the API server until `resume_apiserver`: connections stay open and nobody answers."""
        self.apiserver.pause()

    def resume_apiserver(self) -> None:
        self.apiserver.resume()

    @contextmanager
    def apiserver_paused(self) -> Iterator[None]:
        self.pause_apiserver()
        try:
            yield
        finally:
            self.resume_apiserver()

    # Use

    def ready(self) -> bool:
        """Whether /readyz says ok."""
        try:
            with self._http.open(self.url + "/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def node_ready(self, name: str) -> bool:
        """Whether the node exists and is Ready."""
        node = self.find(f"/api/v1/nodes/{name}") or {}
        conditions = node.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def find(self, path: str) -> dict[str, Any] | None:
        """The object at an API path, as administrator; None while there is none or the API server does not answer."""
        try:
            with self._http.open(self.url + path, timeout=5) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except (urllib.error.URLError, OSError):
            return None

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Runs kubectl as cluster administrator and returns its standard output.

        Raises KubectlError when it fails, subprocess.TimeoutExpired after `timeout` seconds.
        """
        return Kubectl(self.kubeconfig)(*arguments, stdin=stdin, timeout=timeout)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Creates or updates the given objects by server-side apply. Raises KubectlError."""
        Kubectl(self.kubeconfig).apply(*objects)

    def kubeconfig_for(self, name: str, client: KeyPair) -> Path:
        """Writes `<name>.kubeconfig` in the state folder for the user of the `client` certificate."""
        return write_kubeconfig(
            self.state_dir / f"{name}.kubeconfig",
            cluster="finetune-local",
            server=self.url,
            authority=self.authority.certificate,
            client=client,
        )

    # Parts

    def _daemon(self, name: str, flags: Sequence[str]) -> Daemon:
        return Daemon(name, [self._programs / name, *flags], folder=self.state_dir)

    def _issue_certificates(self) -> None:
        self.authority = authority = Authority(self.state_dir / "pki")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        hosts = [*names, "localhost", "127.0.0.1", FIRST_SERVICE_ADDRESS]
        self._serving = authority.issue("apiserver", "kube-apiserver", hosts={*hosts, self.address})
        masters = ["system:masters"]
        self._kubelet_client = authority.issue("apiserver-to-kubelet", "kube-apiserver", organizations=masters)
        self._tokens = authority.signing_key("service-accounts")
        admin = authority.issue("admin", "admin", organizations=masters)
        self._http = _client(authority, admin)
        self.kubeconfig_for("admin", admin).rename(self.kubeconfig)
        for name in ("kube-controller-manager", "kube-scheduler"):
            self.kubeconfig_for(name, authority.issue(name, f"system:{name}"))

    def _etcd_flags(self) -> list[str]:
        # Unix sockets, relative to the state folder: nobody else on the machine can reach them, and no port is taken.
        # The advertised addresses must look like TCP; a single member never dials them.
        return [
            "--data-dir=etcd",
            "--unsafe-no-fsync",
            "--listen-client-urls=unix://etcd.sock",
            "--advertise-client-urls=http://localhost:2379",
            "--listen-peer-urls=unix://etcd-peer.sock",
            "--initial-advertise-peer-urls=http://localhost:2380",
            "--initial-cluster=default=http://localhost:2380",
            "--log-level=warn",
        ]

    def _kube_apiserver_flags(self) -> list[str]:
        kubelet = self._kubelet_client
        return [
            "--etcd-servers=unix://etcd.sock",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged=true",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._tokens.certificate}",
            f"--service-account-signing-key-file={self._tokens.key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            *self._apiserver_flags,
        ]

    def _kube_controller_manager_flags(self) -> list[str]:
        # Where nothing schedules, its sweep every 20 s would call a pod Failed that a test keeps in its grace period.
        without = [] if self._with_scheduler else ["--controllers=*,-pod-garbage-collector-controller"]
        return [
            *without,
            f"--kubeconfig={self.state_dir}/kube-controller-manager.kubeconfig",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self._tokens.key}",
            f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false",
            # The default of 20 requests/s makes the first service account wait six seconds longer.
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--secure-port=0",
        ]

    def _kube_scheduler_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.state_dir}/kube-scheduler.kubeconfig",
            "--leader-elect=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--secure-port=0",
        ]


def _client(authority: Authority, user: KeyPair) -> OpenerDirector:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(user.certificate, user.key)
    return build_opener(ProxyHandler({}), HTTPSHandler(context=context))
