"""`finetune-operator run`: the command line, the log and the signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys

import uvloop
from pythonjsonlogger.json import JsonFormatter

from finetune_operator.api.plain_text import one_line
from finetune_operator.assembly import assembled
from finetune_operator.controller.lease import LeaseLost
from finetune_operator.formats import sandbox
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NoCluster
from finetune_operator.progress.certificate import ForeignSecret
from finetune_operator.settings import Settings, parse

logger = logging.getLogger("finetune_operator")


def main() -> None:
    """Exit codes: 0 after SIGTERM; 1 where the Lease or the cluster was lost; 2 for wrong usage."""
    if sys.argv[1:2] != ["run"]:
        raise SystemExit("usage: finetune-operator run [options]; see finetune-operator run --help")
    settings = parse(sys.argv[2:], os.environ)
    _log(settings)
    sandbox.hide_memory()  # also from its own readers of datasets, where the kernel has nothing better
    # Nearly all that is allocated are parsed objects, which have no cycles: to look for cycles among them as often as
    # Python does by default takes two thirds of the time of a start with 10,000 FineTunes.
    gc.set_threshold(10_000, 20, 100)
    try:
        uvloop.run(run(settings))
    except* (LeaseLost, NoCluster, ForeignSecret) as failures:
        for failure in failures.exceptions:
            logger.error("%s", failure)
        raise SystemExit(1) from None


async def run(
    settings: Settings, stop: asyncio.Event | None = None, client_class: type[KubeClient] = KubeClient
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`."""
    stopping = stop or _on_signals()
    async with assembled(settings, client_class) as operator:
        await operator.run(stopping)


def _log(settings: Settings) -> None:
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    else:
        handler.setFormatter(_OneLineFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)


class _OneLineFormatter(logging.Formatter):
    """What is quoted in a message passes for no line of its own; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name in the standard library
        record.message = one_line(record.message)
        return super().formatMessage(record)


def _on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


if __name__ == "__main__":
    main()
