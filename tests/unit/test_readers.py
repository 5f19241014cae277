"""How much memory a process that reads datasets may have, so that the operator outlives whatever is in them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.backends.datasets.process import announce_confinement, checked_examples
from finetune_operator.backends.transfer.readers import LEAST, MIB, MOST, Readers, memory_of_a_reader
from finetune_operator.formats import landlock, sandbox
from finetune_operator.formats.bounds import container_memory, own_memory
from finetune_operator.formats.invalid import Invalid

V1 = "4:cpu,cpuacct:/x\n3:memory:/kubepods/pod1/c1\n"
V2 = "0::/kubepods/pod1/c1\n"


@pytest.mark.parametrize(
    ("limit", "own", "readers", "memory"),
    [
        (1024, 150, 1, 746),
        (1024, 150, 2, 373),
        (4096, 200, 1, 1024),
        (4096, 200, 4, 846),
        (256, 240, 1, 0),
        (256, 300, 1, 0),
    ],
)
def test_what_a_reader_may_have(limit: int, own: int, readers: int, memory: int) -> None:
    assert memory_of_a_reader(limit * MIB, own * MIB, readers) // MIB == memory
    assert own + readers * memory <= limit or memory == 0


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824"}, 2**30),
        ("0::/\n", {"memory.max": "max"}, 8 * 2**30),
        (V2, {"kubepods/pod1/c1/memory.max": "max", "kubepods/pod1/memory.max": "536870912"}, 2**29),
        (V2, {"memory.max": "1073741824"}, 2**30),
        (V1, {"memory/memory.limit_in_bytes": "1073741824"}, 2**30),
        (V1, {"memory/kubepods/pod1/c1/memory.limit_in_bytes": "1048576"}, 2**20),
        (V1, {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 8 * 2**30),
        ("0::/../../x\n", {"memory.max": "1073741824"}, 2**30),
        ("", {}, 8 * 2**30),
    ],
    ids=str,
)
def test_the_limit_of_a_container(membership: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(membership)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {8 * 2**20} kB\nMemFree:  1 kB\n")
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert container_memory(tmp_path, tmp_path / "cgroups") == expected


def test_what_this_process_has() -> None:
    before = own_memory()
    held = bytearray(os.urandom(1024)) * (64 * 1024)
    assert 60 * MIB < own_memory() - before < 70 * MIB
    del held


def test_too_little_is_said_with_the_way_out() -> None:
    assert Readers(1, lambda: 1024 * MIB, lambda: 150 * MIB).too_little() is None
    one, two = (Readers(count, lambda: 400 * MIB, lambda: 200 * MIB).too_little() for count in (1, 2))
    assert one == (
        "the operator's memory limit of 400 MiB leaves 150 MiB to a reader of datasets, less than 192 MiB; "
        "the administrator can raise resources.limits.memory"
    )
    assert two is not None
    assert two.endswith("raise resources.limits.memory or lower --dataset-readers")
    assert MOST > LEAST


async def test_the_log_says_at_the_start_what_confines_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await announce_confinement(Readers(1, lambda: 1024 * MIB, lambda: 150 * MIB))
        await announce_confinement(Readers(1, lambda: 300 * MIB, lambda: 150 * MIB))
    first, second, third = caplog.messages
    if landlock.version() >= sandbox.WANTED_LANDLOCK:
        assert first == second == "readers of datasets are confined by Landlock and seccomp, 1 at once"
    assert third.startswith("no dataset for a provider can be read: the operator's memory limit of 300 MiB leaves 112")


def test_what_a_reader_says_leads_nowhere_else(tmp_path: Path) -> None:
    """It may have been taken over by what it read; the operator sends what it names to a provider."""
    folder, token = tmp_path / "spool", tmp_path / "token"
    folder.mkdir()
    token.write_text("secret")
    (folder / "u000001").write_bytes(b"x")
    (folder / "link").symlink_to(token)
    (folder / "below").mkdir()
    good = {"where": "row 0", "picture": {"file": str(folder / "u000001")}, "caption": "c"}
    [found] = checked_examples([good], folder)
    assert found == {**good, "source": None, "caption_file": None}
    assert checked_examples([{**good, "picture": {"place": "https://h.example/a.png"}}], folder)
    references: tuple[Any, ...] = (
        {"file": str(token)},
        {"file": str(folder / "link")},
        {"file": str(folder / ".." / "token")},
        {"file": str(folder / "below" / ".." / ".." / "token")},
        {"file": str(folder / "below")},
        {"file": str(folder / "gone")},
        {"file": "u\0"},
        {"file": 7},
        {"place": "../token"},
        {"place": "/etc/passwd"},
        {},
        [],
        "x",
    )
    for reference in references:
        for name in ("picture", "source", "caption_file"):
            with pytest.raises(Invalid):
                checked_examples([{**good, name: reference}], folder)
    wholes: tuple[Any, ...] = (None, {}, [7], [{}], [{"picture": None}])
    for whole in wholes:
        with pytest.raises(Invalid):
            checked_examples(whole, folder)
