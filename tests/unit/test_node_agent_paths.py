"""What stands in for a mount namespace: rewriting of paths, and a volume's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.node_agent.mounts import Mount, PathMap, mount_parents, parents
from tests.cluster.node_agent.payload import File, PayloadError, project

PATHS = PathMap(
    [
        Mount("/finetune/storage", Path("/tmp/host/storage")),
        Mount("/finetune/storage/inner/", Path("/tmp/host/inner")),
        Mount("/tmp", Path("/tmp/host/tmp")),
        Mount("/dev/termination-log", Path("/tmp/host/message")),
        Mount("/", Path("/never")),
    ]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/finetune/storage", "/tmp/host/storage"),
        ("/finetune/storage/run-1/x", "/tmp/host/storage/run-1/x"),
        ("/finetune/storage/inner/x", "/tmp/host/inner/x"),
        ("/finetune/storage-old", "/finetune/storage-old"),
        ("/finetune/storage.bak", "/finetune/storage.bak"),
        ("/data/tmp/x", "/data/tmp/x"),
        ("./tmp ../tmp a/tmp", "./tmp ../tmp a/tmp"),
        ("${HOME}/tmp $(pwd)/tmp ~/tmp", "${HOME}/tmp $(pwd)/tmp ~/tmp"),
        ("--out=/tmp/a:/finetune/storage/b", "--out=/tmp/host/tmp/a:/tmp/host/storage/b"),
        ("echo done > /dev/termination-log; ls '/tmp'", "echo done > /tmp/host/message; ls '/tmp/host/tmp'"),
        ("file:///tmp/x", "file:///tmp/host/tmp/x"),
        ("https://host/tmp/x", "https://host/tmp/x"),
        ("https://tmp/x", "https://tmp/x"),
        ("pvc://claim/path", "pvc://claim/path"),
        ("", ""),
    ],
)
def test_mount_points_are_rewritten_where_they_start_a_path(text: str, expected: str) -> None:
    assert PATHS.text(text) == expected


def test_no_mounts_change_nothing() -> None:
    assert PathMap([]).text("/tmp/x") == "/tmp/x"


def test_folders_above_mounts_are_those_that_the_host_lacks() -> None:
    mounted = ["/finetune/pvc/a", "/finetune/pvc/b", "/etc/finetune", "/data", "/data/x/y"]
    assert parents(mounted, lambda path: path in ("/", "/etc")) == ["/finetune", "/finetune/pvc"]


def test_folder_above_mounts_leads_to_them(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "file").write_text("here")
    message = tmp_path / "message"
    mounts = [Mount("/no-such-folder/pvc/claim/", disk), Mount("/dev/termination-log", message)]
    for _ in range(2):
        above = mount_parents(tmp_path / "mounts", mounts)
    folder = Path(PathMap([*mounts, *above]).text("/no-such-folder/pvc"))
    assert (folder / "claim" / "file").read_text() == "here"


def test_projection_follows_its_source_and_keeps_modes(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    project(volume, {"a": File(b"1", 0o400), "sub/b": File(b"2", 0o644)})
    assert (volume / "a").read_bytes() == b"1"
    assert (volume / "a").stat().st_mode & 0o777 == 0o400
    assert (volume / "sub" / "b").read_bytes() == b"2"
    project(volume, {"a": File(b"3", 0o644), "c": File(b"4", 0o644)})
    assert (volume / "a").read_bytes() == b"3"
    assert sorted(path.name for path in volume.iterdir() if not path.name.startswith("..")) == ["a", "c"]


def test_unchanged_projection_is_left_alone(tmp_path: Path) -> None:
    files = {"a": File(b"1", 0o644)}
    project(tmp_path, files)
    before = (tmp_path / "..data").readlink()
    project(tmp_path, files)
    assert (tmp_path / "..data").readlink() == before


@pytest.mark.parametrize("name", ["../escape", "/absolute", "a/../../b", "..data", ""])
def test_file_outside_the_volume_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PayloadError, match="stay inside the volume"):
        project(tmp_path / "volume", {name: File(b"", 0o644)})
