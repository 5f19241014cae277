"""Starts the node agent: `python -m tests.cluster.node_agent --kubeconfig F --name NODE --state DIR`."""

from __future__ import annotations

import argparse
import hashlib
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from .agent import Agent
from .alias import make_alias, remove_alias
from .api import ApiError, KubeApi
from .certificates import self_signed
from .devices import Devices, count_gpus
from .environment import Host
from .events import PodEvents
from .memory import MemorySupervisor
from .node import Node, host_capacity
from .pods import NodeContext, sweep
from .server import LogServer

log = logging.getLogger("node_agent")

GPU = "nvidia.com/gpu"


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line. Exits with a message on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.node_agent",
        description="Registers a Kubernetes node and runs its pods as plain processes of this user.",
    )
    parser.add_argument("--kubeconfig", type=Path, help="credentials of the node (or of an administrator)")
    parser.add_argument("--name", help="name of the Node")
    parser.add_argument("--state", type=Path, required=True, help="folder for pods' files; belongs to the agent alone")
    parser.add_argument("--images", type=Path, help="JSON: image reference -> {command, args, env, workingDir}")
    parser.add_argument("--address", default="127.0.0.1", help="the node's and all pods' address")
    parser.add_argument("--port", type=int, default=0, help="port for kubectl logs; 0 takes a free one")
    parser.add_argument("--tls-cert", type=Path, help="serving certificate; self-signed if missing")
    parser.add_argument("--tls-key", type=Path, help="its key")
    parser.add_argument("--client-ca", type=Path, help="gives logs only to clients with a certificate of this CA")
    parser.add_argument(
        "--extended-resource",
        action="append",
        default=[],
        metavar="NAME=QUANTITY",
        help=f"adds to the node's capacity or replaces a part of it (cpu=8); may be repeated. "
        f"{GPU} is counted if it is not given",
    )
    parser.add_argument("--restart-backoff", type=float, default=10.0, help="base of the restart back-off in seconds")
    parser.add_argument("--shutdown-grace", type=float, default=5.0, help="seconds that pods get when the agent ends")
    parser.add_argument("--sweep", action="store_true", help="only kill what an earlier agent left behind, and exit")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args(argv)
    if not given.sweep and (given.kubeconfig is None or given.name is None):
        parser.error("--kubeconfig and --name are required")
    if (given.tls_cert is None) != (given.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    if bad := [pair for pair in given.extended_resource if not all(pair.partition("="))]:
        parser.error(f"--extended-resource {bad[0]}: NAME=QUANTITY expected, for example {GPU}=1")
    return given


def main(argv: list[str] | None = None) -> int:
    given = arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=logging.DEBUG if given.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    state: Path = given.state.resolve()
    (state / "pods").mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    agent_id = hashlib.sha256(str(state).encode()).hexdigest()[:12]
    sweep(agent_id)
    if given.sweep:
        remove_alias(state)
        return 0
    return run(given, state, agent_id)


def run(given: argparse.Namespace, state: Path, agent_id: str) -> int:
    """Runs until SIGTERM or SIGINT."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    api = KubeApi(given.kubeconfig)
    further = {GPU: str(gpus)} if (gpus := count_gpus()) else {}
    further |= dict(pair.split("=", 1) for pair in given.extended_resource)
    capacity = host_capacity(state, further)
    context = NodeContext(
        api=api,
        name=given.name,
        host=Host(given.address, capacity, _service_env(api.host)),
        agent_id=agent_id,
        folder=make_alias(state, state / "pods"),
        images=given.images,
        devices=Devices(GPU, int(further.get(GPU, "0"))),
        events=PodEvents(api, given.name),
        backoff_base=given.restart_backoff,
    )
    agent = Agent(context)
    certificate, key = given.tls_cert, given.tls_key
    if certificate is None:
        certificate, key = self_signed(state, given.name, given.address)
    server = LogServer(given.address, given.port, agent, certificate, key, given.client_ca)
    node = Node(api, given.name, given.address, server.port, capacity)
    memory = MemorySupervisor(agent.limited)
    _register(node, stopped)
    for thread in (threading.Thread(target=server.serve_forever, name="server", daemon=True), node, memory, agent):
        thread.start()
    log.info("node %s is ready; logs at https://%s:%d", given.name, given.address, server.port)
    stopped.wait()
    log.info("ending")
    memory.stop()
    server.stopping = True
    agent.stop(given.shutdown_grace)
    node.stop()
    server.shutdown()
    api.close()
    remove_alias(state)
    return 0


def _register(node: Node, stopped: threading.Event) -> None:
    """Keeps trying until the API server answers."""
    while not stopped.is_set():
        try:
            node.register()
            return
        except ApiError as error:
            if not error.temporary:
                raise
            log.warning("registration: %s", error)
            time.sleep(0.5)


def _service_env(url: str) -> dict[str, str]:
    """Where pods find the API server: its real address, since no one routes Service addresses here."""
    parts = urlsplit(url)
    return {"KUBERNETES_SERVICE_HOST": parts.hostname or "", "KUBERNETES_SERVICE_PORT": str(parts.port or 443)}


if __name__ == "__main__":
    sys.exit(main())
