"""Small datasets with pictures, in every form that the trainer reads."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw


def picture(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A different one for each number; sizes vary too."""
    image = Image.new("RGB", size or (48 + 8 * (number % 4), 40), (37 * number % 256, 90, 160))
    ImageDraw.Draw(image).text((4, 4), str(number), fill="white")
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_rows(folder: Path, rows: int = 6) -> list[dict[str, Any]]:
    """train.jsonl with relative image paths."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table = []
    for number in range(rows):
        picture(number).save(folder / "images" / f"{number}.png")
        table.append(
            {
                "question": f"Which number is this? {'Look closely. ' * (number % 3)}",
                "answer": f"It is {number}{'!' * number}",
                "image": f"images/{number}.png",
            }
        )
    write_jsonl(folder / "train.jsonl", table)
    return table


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """SVT-AV1 makes whoever calls it as root a real-time process (SCHED_FIFO 99), and nothing else gets to run."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def video(
    frames: list[Image.Image],
    rate: int = 16,
    codec: str = "libx264rgb",
    container: str = "mp4",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> bytes:
    """A video file; libx264rgb keeps every pixel."""
    import av

    buffer = BytesIO()
    with ordinary_priority(), av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        lossless = codec == "libx264rgb"
        stream.pix_fmt = "rgb24" if lossless else pixels
        stream.options = {"crf": "0"} if lossless else options or {}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return buffer.getvalue()
