"""Videos as rows of a dataset: which frames are taken, and what becomes of those that mean harm."""

import os
import random
import struct
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune_operator.formats.layout import pictures_in
from finetune_operator.formats.media import nature, video_container
from finetune_trainer.data import clips
from finetune_trainer.data.images import ImageError, decode
from finetune_trainer.data.needs import Needs
from tests.trainer.datasets import encoded, picture, video, write_jsonl
from tests.trainer.plain_diffusion import PLAIN
from tests.trainer.runs import TrainerRun
from tests.trainer.test_diffusion import SMALL, recipe_of

CLIPS = Needs(clips=81)
UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix of an MP4's track; the film's is the same and stands before it."""


def numbered(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    """Each frame's red is its number."""
    return [Image.new("RGB", size, (number, 90, 160)) for number in range(count)]


def taken(data: bytes, most: int = 81, rate: float = 16.0) -> list[int]:
    """The numbers of the frames."""
    return [frame.getpixel((0, 0))[0] for frame in clips.decode_frames(data, CLIPS, most, rate)]  # type: ignore[index]


def refusal(data: bytes, needs: Needs = CLIPS) -> str:
    with pytest.raises(ImageError) as caught:
        clips.inspect(data, needs)
    return str(caught.value)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_clip_of_the_model_s_rate_is_taken_as_it_is(container: str) -> None:
    assert taken(video(numbered(40), 16, container=container)) == list(range(40))
    assert taken(video(numbered(40), 24, container=container), rate=24.0) == list(range(40))
    assert taken(video(numbered(40), 16, container=container), most=9) == list(range(9))


def test_of_a_faster_clip_frames_are_left_out_and_of_a_slower_one_none_is_repeated() -> None:
    assert taken(video(numbered(64), 32)) == list(range(0, 64, 2))
    assert taken(video(numbered(40), 8)) == list(range(40))
    thirty = taken(video(numbered(60), 30))
    assert (len(thirty), thirty[:5]) == (32, [0, 2, 4, 6, 8])
    assert {later - earlier for earlier, later in pairwise(thirty)} == {1, 2}


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libx265", "libsvtav1", "libvpx", "libvpx-vp9"])
def test_codecs(codec: str) -> None:
    container = "webm" if "vpx" in codec else "mp4"
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else None
    data = video([picture(number, (96, 64)) for number in range(10)], codec=codec, container=container, options=quiet)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "every later test would starve the machine"
    assert clips.inspect(data, CLIPS).size == (96, 64)
    found = clips.decode_frames(data, CLIPS, 81, 16.0)
    assert len(found) == 10
    red, _, _ = found[9].getpixel((60, 40))  # type: ignore[misc]
    assert abs(int(red) - 37 * 9 % 256) < 12


@pytest.mark.parametrize(
    ("matrix", "size", "corner"),
    [((1, 0, 0, 1), (64, 48), (0, 0)), ((0, 1, -1, 0), (48, 64), (-1, 0)), ((-1, 0, 0, -1), (64, 48), (-1, -1)),
     ((0, -1, 1, 0), (48, 64), (0, -1))],
    ids=["upright", "clockwise", "upside down", "counterclockwise"],
)  # fmt: skip
def test_a_telephone_s_film_stands_upright(
    matrix: tuple[int, int, int, int], size: tuple[int, int], corner: tuple[int, int]
) -> None:
    marked = Image.new("RGB", (64, 48))
    marked.paste((255, 255, 255), (0, 0, 8, 8))
    data = video([marked] * 3)
    at = data.index(UPRIGHT, data.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in matrix)
    turned = data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]

    assert clips.inspect(turned, CLIPS).size == size
    (frame, *_) = clips.decode_frames(turned, CLIPS, 81, 16.0)
    bright = [(x, y) for x in (0, -1) for y in (0, -1) if frame.getpixel((x % size[0], y % size[1])) == (255, 255, 255)]
    assert bright == [corner]


def sound() -> bytes:
    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for packet in (*stream.encode(frame), *stream.encode()):
            output.mux(packet)
    return buffer.getvalue()


def test_videos_that_cannot_be_learnt_are_refused_with_the_reason() -> None:
    good = video(numbered(32))
    assert "has 100 bytes" not in refusal(b"\0" * 100)
    assert refusal(good, Needs(clips=81, max_image_bytes=100)) == f"the video has {len(good)} bytes, more than 100"
    assert "64x48 pixels, more than 1000" in refusal(good, Needs(clips=81, max_pixels=1000))
    assert "81 frames of 64x48 pixels are more than 9999 together" in refusal(
        good, Needs(clips=81, max_clip_pixels=9999)
    )
    assert refusal(sound()) == "the file does not contain a video"
    prores = video(numbered(3), codec="prores_ks", container="mov", pixels="yuv422p10le")
    assert refusal(prores) == "the video's codec is prores; supported are av1, h264, hevc, mpeg4, vp8, vp9"
    assert "more than 480 frames per second" in refusal(video(numbered(200) * 6, 1000))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n"
    assert "in no known format" in refusal(playlist)
    assert "damaged" in refusal(b"\0\0\0\x18ftypisom" + playlist)  # never guessed: still an MP4, and no good one


@pytest.mark.parametrize("container", ["mp4", "webm", "matroska"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.75])
def test_a_torn_video_is_refused(container: str, share: float) -> None:
    codec = "libvpx-vp9" if container == "webm" else "libx264rgb"
    data = video([picture(number, (64, 48)) for number in range(40)], 20, codec, container)
    assert any(word in refusal(data[: int(share * len(data))]) for word in ("damaged", "ends after", "has no frame"))


def test_whatever_the_bytes_the_answer_is_a_clip_or_a_reason() -> None:
    source = random.Random(7)
    frames = [picture(number, (64, 48)) for number in range(8)]
    files = [video(frames), video(frames, codec="libvpx-vp9", container="webm"), video(frames, codec="mpeg4")]
    good = bad = 0
    for number in range(300):
        data = bytearray(files[number % 3])
        for _ in range(source.choice((1, 5, 50))):
            data[source.randrange(8, len(data))] = source.randrange(256)
        try:
            found = clips.decode_frames(bytes(data), CLIPS, 81, 16.0)
        except ImageError:
            bad += 1
        else:
            assert all(frame.mode == "RGB" for frame in found)
            good += 1
    assert good > 20
    assert bad > 20


def test_an_animation_s_frames_may_not_fill_the_memory() -> None:
    frames = numbered(5, (100, 100))
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert clips.inspect(data, Needs(clips=4, max_clip_pixels=40_000)).size == (100, 100)
    assert "5 frames of 100x100 pixels" in refusal(data, Needs(clips=9, max_clip_pixels=40_000))


def test_where_pictures_are_wanted_a_video_is_named() -> None:
    with pytest.raises(ImageError, match="the file is an MP4 or QuickTime file; images are read as PNG"):
        decode(video(numbered(3)), Needs())
    assert nature(video(numbered(3), container="matroska")) == "a Matroska or WebM file"
    for head, what in ((b"heic", "a HEIC picture"), (b"avif", "an AVIF picture")):
        head = b"\0\0\0\x1cftyp" + head
        assert (video_container(head), nature(head)) == (None, what)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trainer import tiny_diffusion

    return tiny_diffusion.make("wan", tmp_path_factory.mktemp("wan") / "checkpoint")


def losses(root: Path, checkpoint: Path, fill: Callable[[Path], None], dataset: str) -> list[float]:
    root.mkdir()
    run = TrainerRun(
        root, checkpoint, kind="textToVideo", dataset=dataset, recipe=recipe_of(PLAIN["wan"], steps=3), advanced=SMALL
    )
    fill(run.data)
    result = run.execute()
    assert (result.code, result.message) == (0, "")
    return run.losses()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' own
def test_a_video_is_learnt_like_the_same_frames_in_a_picture(tmp_path: Path, checkpoint: Path) -> None:
    films = [[picture(20 * number + frame, (64, 64)) for frame in range(9)] for number in range(4)]

    def animated(folder: Path) -> None:
        for number, frames in enumerate(films):
            frames[0].save(folder / f"{number}.png", save_all=True, append_images=frames[1:])
        table(folder, "png")

    def filmed(folder: Path) -> None:
        for number, frames in enumerate(films):
            (folder / f"{number}.mp4").write_bytes(video(frames))
        table(folder, "mp4")

    def table(folder: Path, suffix: str) -> None:
        rows = [{"caption": f"number {number}", "image": f"{number}.{suffix}"} for number in range(4)]
        write_jsonl(folder / "train.jsonl", rows)

    def captioned(folder: Path) -> None:
        filmed(folder)
        (folder / "train.jsonl").unlink()
        for number in range(4):
            (folder / f"{number}.txt").write_text(f"number {number}\n")

    expected = losses(tmp_path / "animated", checkpoint, animated, "pvc://data/train.jsonl")
    assert losses(tmp_path / "filmed", checkpoint, filmed, "pvc://data/train.jsonl") == expected
    assert losses(tmp_path / "captioned", checkpoint, captioned, "pvc://data") == expected


def test_a_folder_of_films(tmp_path: Path, checkpoint: Path) -> None:
    run = TrainerRun(
        tmp_path, checkpoint, kind="textToVideo", dataset="pvc://data", recipe=recipe_of(PLAIN["wan"]), advanced=SMALL
    )
    torn, caption = run.data / "0.mp4", run.data / "0.txt"
    torn.write_bytes(video(numbered(8))[:400])
    caption.write_text("a torn one")
    result = run.execute()
    assert (result.code, result.reason) == (3, "DataValidationFailed")
    assert "row 0: column 'image': the video is damaged: Invalid data found" in result.message
    assert "(0.mp4)" in result.message

    torn.unlink()
    result = run.execute()
    assert (result.code, result.reason) == (3, "DatasetNotFound")
    assert "nor clips or images with captions" in result.message
    assert pictures_in(["0.mp4", "1.png"]) == ("1.png",)  # where pictures are learnt, films are left alone
