"""The command line: `python -m tests.cluster up|down|status|kubeconfig|image`."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from tests.cluster import binary, packages, supervisor
from tests.cluster.errors import ClusterError
from tests.cluster.images import trainer_image
from tests.cluster.levels import Level, highest
from tests.cluster.node import sweep_abandoned
from tests.cluster.node_sweep import unmount_below
from tests.cluster.paths import cluster_dir
from tests.cluster.process_node import end_leftover_pods
from tests.cluster.progress import step
from tests.cluster.record import Record

DEFAULT_NAME = "local"


def main() -> int:
    arguments = _parser().parse_args()
    try:
        code: int = arguments.run(arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


def up(arguments: argparse.Namespace) -> int:
    """Starts the named cluster, or says that it is there."""
    name: str = arguments.name
    if supervisor.owner(name) is not None:
        if not supervisor.record_path(name).exists():
            raise ClusterError(f"cluster {name} is starting or ending right now: try again in a moment")
        _say_how_to_reach(name, _ready(name))
        return 0
    level, why_not_higher = (arguments.level, None) if arguments.level else highest()
    binary.kubernetes()
    if level is Level.NODE:
        level, why_not_higher = _prepare_node(required=arguments.level is not None)
    reason = f" (not higher: {why_not_higher})" if why_not_higher else ""
    print(f"cluster {name}: level {level}{reason}", file=sys.stderr)
    _remove_leftovers(name)
    _say_how_to_reach(name, _start(name, level, fall_back=not arguments.level))
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Ends the named cluster and deletes its state, volumes included; built and pulled images stay in the cache."""
    with step(f"ending cluster {arguments.name}"):
        supervisor.stop(arguments.name)
        _remove_leftovers(arguments.name)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """One line; exit code 0 when the cluster is ready and 1 when it is not."""
    path = supervisor.record_path(arguments.name)
    pid = supervisor.owner(arguments.name)
    if pid is None:
        print(f"cluster {arguments.name}: not running")
        return 1
    if not path.exists():
        print(f"cluster {arguments.name}: starting or ending, process {pid}")
        return 1
    record = Record.read(path)
    print(f"cluster {arguments.name}: ready, level {record.level}, process {pid}, kubeconfig {record.kubeconfig}")
    return 0


def kubeconfig(arguments: argparse.Namespace) -> int:
    """Prints the path of the kubeconfig to use: the one given by --kubeconfig or KUBECONFIG, or the local cluster's."""
    if given := arguments.kubeconfig or os.environ.get("KUBECONFIG"):
        print(given)
        return 0
    print(_ready(arguments.name).kubeconfig)
    return 0


def image(arguments: argparse.Namespace) -> int:
    """Makes the trainer image available in the cluster, built from the checkout, and prints its reference."""
    print(trainer_image(_ready(arguments.name), arguments.base))
    return 0


def _start(name: str, level: Level, *, fall_back: bool) -> Record:
    try:
        with step("starting"):
            return supervisor.start(name, level)
    except ClusterError as error:
        if level is not Level.NODE or not fall_back:
            raise
        print(f"cluster {name}: level {Level.PROCESS} (not higher: {error})", file=sys.stderr)
    _remove_leftovers(name)
    return _start(name, Level.PROCESS, fall_back=False)


def _prepare_node(*, required: bool) -> tuple[Level, str | None]:
    try:
        packages.install_missing()
    except ClusterError as error:
        if required:
            raise
        return Level.PROCESS, str(error)
    return Level.NODE, None


def _ready(name: str) -> Record:
    if supervisor.owner(name) is not None and supervisor.record_path(name).exists():
        return Record.read(supervisor.record_path(name))
    raise ClusterError(f"cluster {name} is not running: python -m tests.cluster up --name {name}")


def _remove_leftovers(name: str) -> None:
    """Deletes the folder of a cluster whose supervisor is gone, with what still runs or is mounted from it."""
    sweep_abandoned()
    folder = cluster_dir(name)
    if not folder.exists():
        return
    agent_state = folder / "node-agent" / "state"
    if agent_state.exists():
        end_leftover_pods(agent_state)
    unmount_below(folder)
    shutil.rmtree(folder)


def _say_how_to_reach(name: str, record: Record) -> None:
    kubectl = binary.kubernetes() / "kubectl"
    print(f"cluster {name} is ready at level {record.level}; look around with", file=sys.stderr)
    print(f"  {kubectl} --kubeconfig {record.kubeconfig} get all -A", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="The project's local Kubernetes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for action in (up, down, status, kubeconfig, image):
        command = commands.add_parser(action.__name__, help=(action.__doc__ or "").strip())
        command.set_defaults(run=action)
        command.add_argument("--name", type=_name, default=DEFAULT_NAME, help="which local cluster (%(default)s)")
        if action is up:
            choices = ", ".join(Level)
            command.add_argument("--level", type=Level, help=f"{choices}; default: the highest this machine can do")
        if action is image:
            command.add_argument("--base", metavar="IMAGE", help="base image instead of one made by mmdebstrap")
        if action is kubeconfig:
            command.add_argument("--kubeconfig", type=Path, help="a cluster of your own; passed through")
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError("a name is 1 to 32 lower-case letters, digits and dashes")
    return text


if __name__ == "__main__":
    sys.exit(main())
