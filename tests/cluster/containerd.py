"""containerd with a configuration, sockets and image store of its own, beside any other on the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cluster.daemon import Daemon
from tests.cluster.errors import ClusterError
from tests.cluster.node_slot import NodeSlot

NAMESPACE = "k8s.io"  # where the kubelet's containers live


class Ctr:
    """containerd's command line, in the kubelet's namespace."""

    def __init__(self, socket: Path) -> None:
        self._start = ["ctr", "--address", str(socket), "--namespace", NAMESPACE]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._start, *arguments], capture_output=True, text=True)

    def check(self, *arguments: str) -> str:
        """Returns its standard output. Raises ClusterError when it fails."""
        done = self.run(*arguments)
        if done.returncode:
            raise ClusterError(f"ctr {' '.join(arguments[:4])} failed: {done.stderr.strip()[-500:]}")
        return done.stdout


class Containerd:
    """The container runtime of one slot."""

    def __init__(self, slot: NodeSlot, *, pause_image: str, cni_plugins: Path) -> None:
        self._slot = slot
        self.ctr = Ctr(slot.containerd_socket)
        slot.run_folder.mkdir(parents=True, exist_ok=True)
        networks = _write_network(slot)
        config = slot.scratch / "containerd.toml"
        config.write_text(_config(slot, pause_image, cni_plugins, networks))
        self._daemon = Daemon("containerd", ["containerd", "--config", config], folder=slot.scratch)

    def start(self) -> None:
        self._daemon.start()
        self._daemon.wait_until(self._answers, timeout=60)
        # The images outlive a cluster in containerd's records, and so do the containers: their processes are gone.
        if leftovers := self.ctr.check("containers", "list", "--quiet").split():
            self.ctr.check("containers", "delete", *leftovers)

    def stop(self) -> None:
        self._daemon.stop()

    def _answers(self) -> bool:
        return self._slot.containerd_socket.exists() and self.ctr.run("version").returncode == 0


def _write_network(slot: NodeSlot) -> Path:
    """The pods' network: a bridge that is the host's own interface, so pods and host reach each other directly."""
    folder = slot.scratch / "cni"
    folder.mkdir(parents=True, exist_ok=True)
    addresses = {
        "type": "host-local",
        "dataDir": str(slot.scratch / "addresses"),
        "ranges": [[{"subnet": str(slot.subnet), "gateway": slot.address}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": slot.name,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": addresses,
    }
    network = {"cniVersion": "0.4.0", "name": slot.name, "plugins": [bridge]}
    (folder / "10-finetune.conflist").write_text(json.dumps(network, indent=2))
    return folder


def _config(slot: NodeSlot, pause_image: str, cni_plugins: Path, networks: Path) -> str:
    return f"""version = 2
root = "{slot.images}"
state = "{slot.run_folder}/containerd"
# The first one would make a folder in /opt.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]

[grpc]
  address = "{slot.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE (a container's root) a lowered score is refused and no pod starts.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    # A pulled image is kept unpacked only.
    discard_unpacked_layers = true
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{slot.run_folder}/runc"
"""
