"""`make chaos`: the verdict on each kind of fault. Exit code 1 where the operator is not Resilient against one.

Without arguments all kinds are tried, and docs/chaos.md is written anew. Arguments name the kinds to try. JSON goes to
build/chaos.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from finetune_operator.kube import config
from tests.chaos.experiment import Kind, Result, experiment
from tests.chaos.kinds import KINDS
from tests.chaos.report import as_json, markdown
from tests.chaos.stage import Stage
from tests.chaos.verdict import Verdict
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.cluster.paths import CHECKOUT
from tests.faults.gateway import Gateway, stranger
from tests.faults.user import User

LANES = 5
"""Experiments at the same time: each waits for most of its time."""


async def run(plane: ControlPlane, kinds: Sequence[Kind], folder: Path, trials: int | None = None) -> list[Result]:
    """All experiments on one control plane, those that take longest first."""
    access = config.load(str(plane.kubeconfig))
    connector = aiohttp.TCPConnector(limit=0, ssl=access.ssl_context() or True)
    lanes = asyncio.Semaphore(LANES)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        Gateway(stranger(plane.kubeconfig, folder / "nobody.kubeconfig")) as gateway,
    ):
        admin = User(session, access.server, "default")

        async def one(kind: Kind) -> Result:
            async with lanes:
                began = time.monotonic()
                stage = Stage(plane, gateway, admin, f"chaos-{kind.name.lower()}", folder)
                result = await experiment(kind, stage, trials or kind.trials)
                print(f"{kind.name}: {result.evaluation} in {time.monotonic() - began:.0f} s", file=sys.stderr)
                return result

        order = sorted(kinds, key=lambda kind: -kind.bound)
        done = {result.kind.name: result for result in await asyncio.gather(*map(one, order))}
        return [done[kind.name] for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *(kind.name for kind in KINDS)], metavar="KIND")
    parser.add_argument("--trials", type=int, help="of each kind (default: as many as each has)")
    given = parser.parse_args()
    kinds = [kind for kind in KINDS if not given.kinds or kind.name in given.kinds]
    with tempfile.TemporaryDirectory(prefix="finetune-chaos-") as name:
        folder = Path(name)
        with ControlPlane(folder / "control-plane") as plane:
            install_crd(plane)
            results = asyncio.run(run(plane, kinds, folder, given.trials))
    page = markdown(results)
    print(page)
    target = CHECKOUT / "build" / "chaos.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(as_json(results), indent=2) + "\n")
    if not given.kinds and not given.trials:
        (CHECKOUT / "docs" / "chaos.md").write_text(page)
    raise SystemExit(any(result.evaluation.verdict is not Verdict.RESILIENT for result in results))


if __name__ == "__main__":
    main()
