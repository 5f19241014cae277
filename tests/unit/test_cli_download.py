"""Files to disk: whole and with the right digest, or not at all; and the pod that reads them from a claim."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.cli.artifacts.claim_source import pieces_in, why
from finetune_operator.cli.artifacts.download import Download
from finetune_operator.cli.artifacts.reader_pod import BATCH_BYTES, MOUNT, batches, printing_command, reader_pod
from finetune_operator.cli.artifacts.records import Record, chosen, recorded
from finetune_operator.cli.errors import CommandError, UsageError
from tests.api.finetunes import fine_tune


def record(data: bytes, name: str = "adapter.bin") -> Record:
    return Record(name, f"pvc://claim/{name}", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


class Given:
    """A source of bytes that are there."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.announced: list[str] = []

    def announce(self, records: Sequence[Record]) -> None:
        self.announced = [each.name for each in records]

    def open(self, record: Record) -> Iterator[bytes]:
        yield from self.chunks


def test_a_file_arrives_whole(tmp_path: Path) -> None:
    Download(tmp_path / "to", force=False).fetch([record(b"abc", "samples/a.png")], Given(b"a", b"bc"))
    assert (tmp_path / "to" / "samples" / "a.png").read_bytes() == b"abc"


@pytest.mark.parametrize("chunks", [(b"ab",), (b"abd",), (b"abc", b"d"), ()])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(CommandError, match="arrived with"):
        Download(tmp_path, force=False).fetch([record(b"abc")], Given(*chunks))
    assert list(tmp_path.iterdir()) == []


def test_without_a_digest_the_size_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="instead of 9"):
        Download(tmp_path, force=False).fetch([Record("a", "pvc://c/a", "", 9)], Given(b"abc"))
    Download(tmp_path, force=False).fetch([Record("a", "pvc://c/a", "", None)], Given(b"abc"))
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_what_is_there_is_not_fetched_again_nor_lost(tmp_path: Path) -> None:
    path = tmp_path / "adapter.bin"
    path.write_bytes(b"abc")
    source = Given()
    Download(tmp_path, force=False).fetch([record(b"abc")], source)
    assert source.announced == []
    path.write_bytes(b"mine")
    with pytest.raises(CommandError) as caught:
        Download(tmp_path, force=False).fetch([record(b"abc")], Given(b"abc"))
    assert "--force" in caught.value.hint
    assert path.read_bytes() == b"mine"
    Download(tmp_path, force=True).fetch([record(b"abc")], Given(b"abc"))
    assert path.read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *((name, "leads elsewhere") for name in ("../x", "/x", "a/../../x", "", "a\x00b", "..", "C:x", "a\\b", "a\nb")),
        *((name, "hidden name") for name in (".git/config", ".envrc", "a/.GIT/hooks/post-checkout", ".ssh/rc", "a/.b")),
        *((name, "cannot be seen") for name in ("\u200b.git/config", "a\u202eb", "x\U000e0041", "\ud800")),
        *((name, "another one") for name in ("git~1/config", "NUL", "a/con.txt", "a.", "a /b", " a")),
        ("x" * 300, "more than 255 bytes"),
        ("ä" * 128, "more than 255 bytes"),
        ("/".join(["x" * 200] * 20), "more than 3000 bytes"),
    ],
)
def test_a_name_that_is_a_trap(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=why) as caught:
        Download(tmp_path / "to", force=True).fetch([Record(name, "", "", None)], Given(b"x"))
    assert "it is not written" in caught.value.message
    assert len(caught.value.message) < 300
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "samples/step 1/ä.png", "a..b", "x" * 255, "con-2/a~1"])
def test_an_ordinary_name(name: str, tmp_path: Path) -> None:
    Download(tmp_path, force=False).fetch([record(b"abc", name)], Given(b"abc"))
    assert (tmp_path / name).read_bytes() == b"abc"
    assert len([each for each in tmp_path.rglob("*") if each.is_file()]) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("a.bin", "A.bin"),
        ("Straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("same", "same"),
        ("a", "a/b"),
        ("A/b", "a"),
        ("x/y/z", "X/y"),
    ],
)
def test_names_that_are_one_place(names: tuple[str, ...], tmp_path: Path) -> None:
    files = [Record(name, f"pvc://claim/{number}", "", None) for number, name in enumerate(names)]
    with pytest.raises(CommandError, match="cannot both be written"):
        Download(tmp_path / "to", force=True).fetch(files, Given(b"x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_links_in_the_folder_are_not_followed(force: bool, dangling: bool, tmp_path: Path) -> None:
    """In the place of the file, of a folder on the way, and of a folder that is to be made."""
    folder, elsewhere = tmp_path / "to", tmp_path / "elsewhere"
    folder.mkdir()
    if not dangling:
        elsewhere.mkdir()
        (elsewhere / "a").write_bytes(b"mine")
    (folder / "link").symlink_to(elsewhere)
    (folder / "file").symlink_to(elsewhere / "a")
    (folder / "below").mkdir()
    (folder / "below" / "link").symlink_to("../../elsewhere")
    for name in ("link/a", "file", "below/link/a", "link"):
        with pytest.raises(CommandError, match="leads over a link") as caught:
            Download(folder, force=force).fetch([record(b"abc", name)], Given(b"abc"))
        assert "--directory" in caught.value.hint
    assert dangling or (elsewhere / "a").read_bytes() == b"mine"
    assert dangling or len(list(elsewhere.iterdir())) == 1
    assert dangling != elsewhere.exists()


def test_a_link_that_is_planted_meanwhile(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "to", tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Planting(Given):
        def announce(self, records: Sequence[Record]) -> None:
            folder.mkdir()
            (folder / "samples").symlink_to(elsewhere)

        def open(self, record: Record) -> Iterator[bytes]:
            yield b"abc"

    with pytest.raises(CommandError, match="leads over a link"):
        Download(folder, force=True).fetch([record(b"abc", "samples/a.png")], Planting())
    assert not list(elsewhere.iterdir())


def test_the_user_s_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "disk")
    Download(tmp_path / "to", force=False).fetch([record(b"abc", "samples/a")], Given(b"abc"))
    assert (tmp_path / "disk" / "samples" / "a").read_bytes() == b"abc"


def test_what_is_in_the_way_and_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for name, said in (("fifo", "no file"), ("folder", "no file"), ("file/a", "no folder")):
        with pytest.raises(CommandError, match=said):
            Download(tmp_path, force=True).fetch([record(b"abc", name)], Given(b"abc"))
    with pytest.raises(CommandError, match="File name too long"):
        Download(tmp_path / ("x" * 300), force=True).fetch([record(b"abc")], Given(b"abc"))
    with pytest.raises(CommandError, match="no folder"):
        Download(tmp_path / "file", force=True).fetch([record(b"abc")], Given(b"abc"))


def test_which_run_s_files() -> None:
    status = {"run": 2, "artifacts": [{"name": "new"}], "history": [{"run": 1, "artifacts": [{"name": "old"}]}]}
    finetune = {**fine_tune("x", run=2), "status": status}
    assert [each.name for each in recorded(finetune, None)] == ["new"]
    assert [each.name for each in recorded(finetune, 1)] == ["old"]
    # A status that still speaks of the run before: nothing of the new one is there.
    with pytest.raises(CommandError, match="run 3 of x has made nothing yet"):
        recorded({**finetune, "spec": {**finetune["spec"], "run": 3}}, None)


def test_only_some_of_them() -> None:
    files = [Record(name, "", "", None) for name in ("adapter.safetensors", "samples/a.png")]
    assert chosen(files, ["samples/*"]) == files[1:]
    assert chosen(files, []) == files
    with pytest.raises(UsageError) as caught:
        chosen(files, ["*.bin"])
    assert "adapter.safetensors" in caught.value.hint


@given(st.lists(st.integers(0, 3 * BATCH_BYTES), max_size=6))
def test_batches_hold_every_byte_once_and_in_order(sizes: list[int]) -> None:
    files = [(f"f{index}", size) for index, size in enumerate(sizes)]
    planned = batches(files)
    assert all(sum(piece.length for piece in batch) <= BATCH_BYTES for batch in planned)
    pieces = [piece for batch in planned for piece in batch]
    for name, size in files:
        own = [piece for piece in pieces if piece.path == name]
        assert sum(piece.length for piece in own) == size
        assert [piece.offset for piece in own] == [sum(each.length for each in own[:n]) for n in range(len(own))]
        assert own
    assert [piece.path for piece in pieces] == sorted(piece.path for piece in pieces)


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4))
def test_what_the_pod_prints_is_what_is_read(contents: list[bytes]) -> None:
    lines = [line for data in contents for line in [*base64.encodebytes(data).decode().split(), "."]]
    assert list(pieces_in(iter(lines))) == contents


def test_the_reader_s_script_in_a_real_shell(tmp_path: Path) -> None:
    first, second = bytes(range(256)) * 4000, b""
    odd = "it's $(touch hacked) `x`; .bin"
    (tmp_path / odd).write_bytes(first)
    (tmp_path / "empty").write_bytes(second)
    (batch,) = batches([(odd, len(first)), ("empty", 0)])
    halves = [batch[0]._replace(length=100), batch[0]._replace(offset=100, length=len(first) - 100), batch[1]]
    command = [word.replace(MOUNT, str(tmp_path)) for word in printing_command(halves)]
    # As in a process of Python's, where nobody ends on SIGPIPE, and with more than a pipe holds.
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, restore_signals=False)
    assert list(pieces_in(iter(done.stdout.splitlines()))) == [first[:100], first[100:], b""]
    assert done.stderr == ""
    assert not (tmp_path / "hacked").exists()
    gone = [word.replace(MOUNT, str(tmp_path)) for word in printing_command([batch[0]._replace(path="absent")])]
    refused = subprocess.run(gone, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (1, f"{tmp_path}/absent cannot be read\n")


def test_a_damaged_log_is_said_so() -> None:
    with pytest.raises(CommandError, match="damaged"):
        list(pieces_in(iter(["not base64!", "."])))


def test_the_reader_pod_has_the_run_s_place_and_nothing_else() -> None:
    job = {"nodeSelector": {"pool": "gpu"}, "gpus": 4, "env": [{"name": "A", "value": "b"}]}
    finetune = fine_tune("x")
    finetune["metadata"]["uid"] = "u"
    pod: Any = reader_pod(finetune, "x-reader", "claim", "image", ["sh"], job)
    assert pod["spec"]["nodeSelector"] == {"pool": "gpu"}
    (container,) = pod["spec"]["containers"]
    assert "env" not in container
    assert container["volumeMounts"] == [{"name": "claim", "mountPath": MOUNT, "readOnly": True}]
    assert set(container["resources"]["limits"]) == {"memory"}
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_why_a_pod_does_not_start() -> None:
    waiting = {
        "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]
    }
    assert why({"status": waiting}) == "ImagePullBackOff no such image"
    unscheduled = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}
    assert why({"status": unscheduled}) == "0/3 nodes"
    assert why({"status": {"phase": "Pending"}}) == "Pending"
