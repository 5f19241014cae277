"""`python -m tests.upstream.fakes scenario --port 8801`: one fake, to be used by hand."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib

from tests.upstream.fakes.server import Fake

FAKES = {"oxen": "OxenFake", "scenario": "ScenarioFake", "bfl": "BflFake", "octoai": "OctoAiFake"}


def fake(name: str) -> Fake:
    """A fresh fake of a provider."""
    module = importlib.import_module(f"tests.upstream.fakes.{name}")
    made = getattr(module, FAKES[name])()
    assert isinstance(made, Fake)
    return made


async def _serve(name: str, host: str, port: int, seconds: float) -> None:
    provider = fake(name)
    if seconds:
        provider.options.by, provider.options.step_seconds = "time", seconds
    async with provider.serve(host, port):
        print(f"{name} listens on {provider.url}; its remote control is {provider.origin}/_control", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream.fakes", description=__doc__)
    parser.add_argument("name", choices=sorted(FAKES))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--step-seconds", type=float, default=0.0, help="a run moves by time and not by polls")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.name, options.host, options.port, options.step_seconds))


if __name__ == "__main__":
    main()
