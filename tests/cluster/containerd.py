"""containerd with a configuration, sockets and image store of its own, beside any other on the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cluster.daemon import Daemon
from tests.cluster.node_slot import NodeSlot

NAMESPACE = "k8s.io"  # where the kubelet's containers live


class Containerd:
    """The container runtime of one slot."""

    def __init__(self, slot: NodeSlot, *, pause_image: str, registries: Path, cni_plugins: Path) -> None:
        self._slot = slot
        slot.run_folder.mkdir(parents=True, exist_ok=True)
        networks = _write_network(slot)
        config = slot.scratch / "containerd.toml"
        config.write_text(_config(slot, pause_image, registries, cni_plugins, networks))
        self._daemon = Daemon("containerd", ["containerd", "--config", config], folder=slot.scratch)

    def start(self) -> None:
        self._daemon.start()
        self._daemon.wait_until(self._answers, timeout=60)
        # The images outlive a cluster in containerd's records, and so do the containers: their processes are gone.
        if leftovers := self._ctr("containers", "list", "--quiet").split():
            self._ctr("containers", "delete", *leftovers)

    def stop(self) -> None:
        self._daemon.stop()

    def _answers(self) -> bool:
        return self._slot.containerd_socket.exists() and self._run("version").returncode == 0

    def _ctr(self, *arguments: str) -> str:
        return self._run(*arguments).stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", str(self._slot.containerd_socket), "--namespace", NAMESPACE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)


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


def _config(slot: NodeSlot, pause_image: str, registries: Path, cni_plugins: Path, networks: Path) -> str:
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
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    # One copy of the image on disk: the registry has the compressed one.
    discard_unpacked_layers = true
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = "{slot.run_folder}/runc"
"""
