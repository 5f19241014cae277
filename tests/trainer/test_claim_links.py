"""A claim's folder with symbolic links: nothing outside of it is read, whenever the link appears; links inside work."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from finetune_operator.formats.exact import open_exact
from finetune_operator.formats.invalid import Invalid
from finetune_trainer.data.fetch import Fetcher
from finetune_trainer.data.images import ImageError
from finetune_trainer.data.places import Folder
from finetune_trainer.data.reader import Reader
from finetune_trainer.data.sources import Source, open_source
from finetune_trainer.environment import Environment
from finetune_trainer.errors import ConfigError, DataError
from tests.trainer.datasets import encoded, picture

ROW = json.dumps({"image": "a.png", "caption": "one"}) + "\n"


def opened(root: Path, uri: str) -> Source:
    access = Environment(
        config=root / "config.json",
        run_dir=root / "run",
        storage_dir=None,
        storage_claim=None,
        cache_dir=root / "cache",
        pvc_dir=root / "pvc",
        dataset_secret_dir=None,
    ).dataset_access
    return open_source(uri, access)


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """pvc://data, beside which secrets lie."""
    folder = tmp_path / "pvc" / "data"
    (folder / "set").mkdir(parents=True)
    for outside in (tmp_path / "pvc" / "other", tmp_path / "secrets"):
        outside.mkdir()
        for suffix in (".jsonl", ".csv"):
            (outside / f"t{suffix}").write_text(ROW)
        (outside / "set").mkdir()
        (outside / "set" / "t.jsonl").write_text(ROW)
        with zipfile.ZipFile(outside / "t.zip", "w") as archive:
            archive.writestr("t.jsonl", ROW)
    return folder


@pytest.mark.parametrize("target", ["../../../secrets/{}", "../../other/{}", "ABSOLUTE/secrets/{}"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "train.jsonl"])
def test_a_table_that_leads_out_is_refused(name: str, target: str, claim: Path, tmp_path: Path) -> None:
    place = target.format(name.replace("train", "t")).replace("ABSOLUTE", str(tmp_path))
    (claim / "set" / name).symlink_to(place)
    words = rf"the table '{name}' of pvc://data/set leads out of the dataset's folder through a symbolic link"
    with pytest.raises(DataError, match=words):
        opened(tmp_path, "pvc://data/set")


def test_so_is_one_below_and_one_of_many(claim: Path, tmp_path: Path) -> None:
    (claim / "set" / "train").mkdir()
    (claim / "set" / "train" / "0.jsonl").write_text(ROW)
    (claim / "set" / "train" / "1.jsonl").symlink_to(tmp_path / "secrets" / "t.jsonl")
    with pytest.raises(DataError, match=r"'train/1\.jsonl' of pvc://data/set leads out"):
        opened(tmp_path, "pvc://data/set")


@pytest.mark.parametrize(
    "uri", ["pvc://data/link.jsonl", "pvc://data/folder", "pvc://data/folder/t.jsonl", "pvc://data/z.zip"]
)
def test_a_uri_that_leads_out_of_its_claim_is_refused(uri: str, claim: Path, tmp_path: Path) -> None:
    (claim / "link.jsonl").symlink_to(tmp_path / "secrets" / "t.jsonl")
    (claim / "folder").symlink_to(tmp_path / "pvc" / "other")
    (claim / "z.zip").symlink_to(tmp_path / "secrets" / "t.zip")
    with pytest.raises(ConfigError, match="leads out of its claim through a symbolic link"):
        opened(tmp_path, uri)


def test_links_inside_are_followed(claim: Path, tmp_path: Path) -> None:
    """As in a folder that the Hugging Face hub's client has made, named by its file."""
    (claim / "set" / "blobs").mkdir()
    (claim / "set" / "blobs" / "0").write_text(ROW)
    (claim / "set" / "t.jsonl").symlink_to("blobs/0")
    assert opened(tmp_path, "pvc://data/set").names == ("t.jsonl",)
    (claim / "elsewhere").write_text(ROW)
    (claim / "link.jsonl").symlink_to("elsewhere")
    source = opened(tmp_path, "pvc://data/link.jsonl")
    with Reader() as reader:
        [row] = reader.table(source.tables[0], source.names[0]).rows(["caption"])
    assert row == {"image": "a.png", "caption": "one"}


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_appears_after_the_check_is_not_followed(swapped: str, claim: Path, tmp_path: Path) -> None:
    (claim / "set" / "t.jsonl").write_text(ROW)
    source = opened(tmp_path, "pvc://data/set")
    if swapped == "file":
        (claim / "set" / "t.jsonl").unlink()
        (claim / "set" / "t.jsonl").symlink_to(tmp_path / "secrets" / "t.jsonl")
    else:
        (claim / "set").rename(claim / "was")
        (claim / "set").symlink_to(tmp_path / "secrets" / "set")
    with Reader() as reader:
        table = reader.table(source.tables[0], source.names[0])
        with pytest.raises(Invalid, match=r"t\.jsonl cannot be read by .* \(permission denied\)"):
            list(table.rows(["caption"]))


def test_nor_is_one_in_the_path_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "set", tmp_path / "outside"
    for each in (folder / "images", outside):
        each.mkdir(parents=True)
        (each / "a.png").write_bytes(encoded(picture(1)))
    files = Folder(folder, Fetcher())
    assert files.read("images/a.png", 10_000)
    with pytest.raises(ImageError, match="larger than 10 bytes"):
        files.read("images/a.png", 10)
    is_file = Path.is_file

    def planted(path: Path) -> bool:
        found = is_file(path)
        (folder / "images").rename(folder / "was")
        (folder / "images").symlink_to(outside)
        return found

    monkeypatch.setattr(Path, "is_file", planted)
    with pytest.raises(ImageError, match=r"'images/a\.png' cannot be read"):
        files.read("images/a.png", 10_000)


def test_an_exact_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_text("x")
    (tmp_path / "l").symlink_to("a")
    (tmp_path / "a" / "l").symlink_to("f")
    os.close(open_exact(tmp_path / "a" / "f"))
    for place in ("l/f", "a/l", "l"):
        with pytest.raises(OSError, match="symbolic links"):
            open_exact(tmp_path / place)
    with pytest.raises(FileNotFoundError):
        open_exact(tmp_path / "gone")
