"""A hostile namespace beside an honest one: the honest one's FineTunes come to their Jobs as fast as without it.

The operator is a process with the permissions and settings of the chart; with its readers it stays below the memory
limit of the chart, at which the kubelet would kill it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from tests.chaos.stage import Replica, Stage
from tests.chaos.verdict import percentile
from tests.chart.charts import CHART
from tests.cluster.control_plane import ControlPlane
from tests.faults import hostile
from tests.faults.gateway import Gateway, stranger
from tests.faults.hostile import HostileStore, Tenant
from tests.faults.user import User
from tests.upstream.life import CASES

RUNS, RATE = 40, 20.0
"""FineTunes of the honest namespace, and how many of them are applied in a second."""
SLOWER, FLOOR = 5.0, 0.1
"""By how much p99 may be slower beside the hostile one; below so many seconds nobody notices."""
MEBI = 2**20
CGROUPS = Path("/sys/fs/cgroup")

Hostility = Callable[[Tenant], AbstractAsyncContextManager[None]]


def limit() -> int:
    """The memory that the chart gives the operator, in bytes."""
    text = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]["limits"]["memory"]
    assert text == "1Gi"
    return 1024 * MEBI


def family(process: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield process
    with suppress(OSError):
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            for child in task.read_text().split():
                yield from family(int(child))


def resident(process: int) -> int:
    """Bytes of memory of the process and its readers that are no file's: what no limit can reclaim."""
    total = 0
    for each in family(process):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return total


@contextmanager
def container(process: int) -> Iterator[bool]:
    """The process in a cgroup with the chart's limit, as in its container; whether this user may do that."""
    controllers = CGROUPS / "cgroup.subtree_control"
    v2 = controllers.exists() and "memory" in controllers.read_text().split()
    path = (CGROUPS if v2 else CGROUPS / "memory") / f"finetune-hostile-{process}"
    try:
        path.mkdir()
    except OSError:
        yield False
        return
    try:
        (path / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(limit()))
        (path / "cgroup.procs").write_text(str(process))
        yield True
    finally:
        for each in (path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (path.parent / "cgroup.procs").write_text(each)
        path.rmdir()


class Peak:
    """The most memory that the operator and its readers have had, while it is looked at."""

    def __init__(self, replica: Replica) -> None:
        self.bytes = 0
        self._replica = replica

    async def watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident(self._replica.process.pid))
            await asyncio.sleep(0.1)


async def p99(stage: Stage, prefix: str) -> float:
    """Seconds from a FineTune to its Job."""
    applied: dict[str, float] = {}
    seen: dict[str, float] = {}
    names = [f"{prefix}-{number}" for number in range(RUNS)]

    def all_seen() -> bool:
        now = time.monotonic()
        for name in names:
            if name not in seen and stage.job(name) is not None:
                seen[name] = now
        return len(seen) == RUNS

    waiting = asyncio.create_task(stage.view.until("every Job", all_seen, 20))
    began = time.monotonic()
    for number, name in enumerate(names):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        applied[name] = time.monotonic()
        await stage.apply(name)
    await waiting
    found = percentile([seen[name] - applied[name] for name in names], 0.99)
    assert found is not None
    return found


@asynccontextmanager
async def neighbours(plane: ControlPlane, user: User, folder: Path) -> AsyncIterator[tuple[Stage, Tenant]]:
    """A stage for the honest one, and the hostile one's place; one operator serves both."""
    name = f"honest-{uuid.uuid4().hex[:6]}"
    store = HostileStore()
    async with (
        Gateway(stranger(plane.kubeconfig, folder / "nobody.kubeconfig")) as gateway,
        store.serve(),
        CASES["bfl"].fake().serve() as fake,
        Stage(plane, gateway, user, name, folder) as stage,
    ):
        tenant = Tenant(user.in_namespace(f"hostile-{name}"), store, fake.url)
        await tenant.user.begin()
        replica = await stage.replica()
        replica.start(
            NAMESPACE=f"{stage.user.namespace},{tenant.user.namespace}",
            ALLOW_BASE_URL=fake.url,
            ALLOW_DATASET_HOST="127.0.0.1",
        )
        await replica.ready()
        await stage.apply("first")
        await stage.runs("first")
        yield stage, tenant


@pytest.mark.parametrize(
    "hostility",
    [
        hostile.deep,
        hostile.wide,
        hostile.dripping,
        hostile.bombing,
        hostile.endless,
        hostile.shouting,
    ],
    ids=lambda each: each.__name__,
)
async def test_the_honest_one_is_served_as_before(
    hostility: Hostility, plane: ControlPlane, user_of: Callable[[str], User], tmp_path: Path
) -> None:
    async with neighbours(plane, user_of("default"), tmp_path) as (stage, tenant):
        (replica,) = stage.replicas
        with container(replica.process.pid) as confined:
            alone = await p99(stage, "alone")
            peak = Peak(replica)
            watching = asyncio.create_task(peak.watch())
            async with hostility(tenant):
                beside = await p99(stage, "beside")
                await asyncio.sleep(2)
            watching.cancel()
        print(
            f"\n{hostility.__name__}: p99 {alone:.3f} s alone, {beside:.3f} s beside it "
            f"({beside / max(alone, FLOOR):.1f} times); {peak.bytes / MEBI:.0f} MiB"
        )
        assert replica.process.poll() is None
        assert "Traceback" not in replica.log, replica.log
        if confined or hostility is not hostile.bombing:  # readers take what the container's limit leaves
            assert peak.bytes < limit()
        assert beside <= SLOWER * max(alone, FLOOR)
