"""A process of its own, so that its memory is its own: a dataset in, a ZIP in a JSON body out. Prints two numbers:
the peak of the resident memory before and after, in KiB.

    python -m tests.upstream.memory_probe DATASET_URL SMALL_DATASET_URL SINK_URL FOLDER
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from finetune_operator.backends.datasets.bundle import json_with_file, pack
from finetune_operator.backends.datasets.prepare import examples
from finetune_operator.backends.transfer.spool import Disk
from tests.upstream.contexts import PICTURES, client, context_of, run_of


def peak_kib() -> int:
    """Of this program alone: `ru_maxrss` would begin with what the starting process had at its fork."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


async def main(dataset: str, small: str, sink: str, folder: Path) -> None:
    """The small one first: it loads what is loaded once."""
    hosts = [urlsplit(url).netloc for url in (dataset, sink)]
    async with client(hosts) as http:
        for number, url in enumerate((small, dataset)):
            context = context_of(http, folder / str(number), disk=Disk(2**30))
            async with examples(run_of(url), context, PICTURES) as found:
                archive = context.spool / "dataset.zip"
                await pack(found, archive)
                body = json_with_file({"mode": "general"}, "file_data", archive)
                headers = {"Content-Length": str(body.length), "Content-Type": "application/json"}
                await context.fetcher.call("POST", sink, headers=headers, content=body.chunks())
            print(peak_kib())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
