"""Validated rows in one file with an index, for random access, whatever the format of the dataset.

A record is a 4-byte length, a JSON header, and the bytes of the images from the table. Images in files of the dataset
are not copied; the header has their paths.
"""

import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image

from finetune_trainer.data.clips import decode_frames
from finetune_trainer.data.images import ImageError, decode
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.places import Files
from finetune_trainer.data.row_names import RowNames
from finetune_trainer.errors import DataError

_Decoded = TypeVar("_Decoded")
RECORDS: Final = "records.bin"
INDEX: Final = "index.u64"
SUMMARY: Final = "summary.json"


@dataclass(frozen=True)
class Sample:
    """One row: texts and values by column; images by column, with their sizes and places."""

    row: int
    """Row number in the dataset, from 0."""
    text: dict[str, str]
    values: dict[str, Any]
    images: dict[str, list[dict[str, Any]]]
    _blobs: int

    def sizes(self, columns: tuple[str, ...]) -> list[tuple[int, int]]:
        """(width, height) of the images, column by column."""
        return [(image["w"], image["h"]) for column in columns for image in self.images.get(column, [])]


class Writer:
    """A context manager that writes a store."""

    def __init__(self, folder: Path) -> None:
        self._records = (folder / RECORDS).open("wb")
        self._index_path = folder / INDEX
        self._offsets = array("Q", [0])

    def append(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        """Append a record; the images in the header refer to the blobs by their offset after the header."""
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        self._records.write(len(text).to_bytes(4, "little") + text)
        for blob in blobs:
            self._records.write(blob)
        self._offsets.append(self._records.tell())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        """Write the index."""
        self._records.close()
        self._index_path.write_bytes(self._offsets.tobytes())


class Store:
    """The valid rows of a dataset. Safe to read from several threads."""

    def __init__(self, folder: Path, files: Files, needs: Needs) -> None:
        self._files, self._needs = files, needs
        self.summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
        self.names = RowNames.from_json(self.summary["rowNames"])
        self._offsets = array("Q")
        self._offsets.frombytes((folder / INDEX).read_bytes())
        self._descriptor = os.open(folder / RECORDS, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Sample:
        start = self._offsets[index]
        size = int.from_bytes(os.pread(self._descriptor, 4, start), "little")
        header = json.loads(os.pread(self._descriptor, size, start + 4).decode("utf-8", "surrogatepass"))
        return Sample(header["row"], header["text"], header["values"], header["images"], start + 4 + size)

    def load_images(self, sample: Sample, columns: tuple[str, ...]) -> list[Image.Image]:
        """The decoded images, column by column. Raises DataError if a file has changed since validation."""
        return [self._image(sample, image) for column in columns for image in sample.images.get(column, [])]

    def load_frames(self, sample: Sample, column: str, place: int, most: int, rate: float) -> list[Image.Image]:
        """The first frames of a clip, at most `most`, at `rate` frames per second. Raises as `load_images`."""
        image = sample.images[column][place]
        return self._decoded(sample, image, lambda data: decode_frames(data, self._needs, most, rate))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _image(self, sample: Sample, image: dict[str, Any]) -> Image.Image:
        return self._decoded(sample, image, lambda data: decode(data, self._needs))

    def _decoded(self, sample: Sample, image: dict[str, Any], read: Callable[[bytes], _Decoded]) -> _Decoded:
        try:
            if "at" in image:
                offset, size = image["at"]
                return read(os.pread(self._descriptor, size, sample._blobs + offset))
            return read(self._files.read(image["place"], self._needs.max_image_bytes))
        except ImageError as error:
            raise DataError(f"{self.names.of(sample.row)}: {error} (it was valid when the run started)") from error
