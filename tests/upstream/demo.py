"""`make demo-upstream`: a FineTune at a fake of each hosted provider, on a real API server, from apply to artifact.

python -m tests.upstream.demo [oxen scenario bfl octoai]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.upstream.life import CASES, Case, Life, life

Object = dict[str, Any]

SECONDS = 120.0
ENDS = ("Succeeded", "Failed", "Cancelled")


def main() -> int:
    """Exit code 0 where every run has succeeded and was billed once."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream.demo", description=__doc__)
    parser.add_argument("providers", nargs="*", choices=[[], *CASES], help="default: all of them")
    names: Sequence[str] = parser.parse_args().providers or list(CASES)
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="finetune-demo-") as folder:
        print("Starting a Kubernetes API server ...", flush=True)
        with ControlPlane(Path(folder)) as plane:
            install_crd(plane)
            return 0 if uvloop.run(_all(names, plane.kubeconfig)) else 1


async def _all(names: Sequence[str], kubeconfig: Path) -> bool:
    return all([await _one(CASES[name], kubeconfig) for name in names])


async def _one(case: Case, kubeconfig: Path) -> bool:
    async with life(case, kubeconfig) as run:
        print(f"\n{case.name}: a fake of the provider listens on {run.fake.url}")
        run.start("--poll-interval=300ms")
        await run.apply()
        body = await _watch(run)
        status = body["status"]
        for artifact in status.get("artifacts") or ():
            size = f", {artifact['sizeBytes']} bytes, {artifact['digest'][:19]}..." if "digest" in artifact else ""
            print(f"  artifact  {artifact['uri']}{size}")
        print(f"  billed    {run.billed} time(s); {len(run.fake.calls)} requests to the provider")
        return status["phase"] == "Succeeded" and run.billed == 1


async def _watch(run: Life) -> Object:
    """Print the status whenever it shows something new; the FineTune at its end."""
    began, shown = time.monotonic(), ""
    while True:
        body = await run.get() or {}
        line = _line(body.get("status") or {})
        if line != shown:
            shown = line
            print(f"  {time.monotonic() - began:5.1f} s   {line}", flush=True)
        if (body.get("status") or {}).get("phase") in ENDS:
            return body
        if time.monotonic() - began > SECONDS:
            sys.exit(f"{run.case.name}: no end within {SECONDS:.0f} s: {body.get('status')}")
        await asyncio.sleep(0.05)


def _line(status: Object) -> str:
    upstream, progress, cost = (status.get(name) or {} for name in ("upstream", "progress", "cost"))
    parts = [
        f"{status.get('phase') or 'applied':<10}",
        f"{upstream.get('stage') or '':<26}",
        f"{progress['percentage']:>3} %" if "percentage" in progress else "     ",
        f"queue position {upstream['queuePosition']}" if upstream.get("queuePosition") is not None else "",
        f"costs {cost.get('amount') or cost.get('estimate')} {cost.get('unit')}" if cost else "",
    ]
    return "  ".join(parts).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
