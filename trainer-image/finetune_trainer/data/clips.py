"""Targets with several frames: animated images and videos. All input is untrusted.

Videos are decoded by FFmpeg. Their container format is detected here, by the first bytes, and never by FFmpeg, because
some of its formats are lists of other files and addresses; only the codecs listed here are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, Final

from PIL import Image

from finetune_operator.formats.media import HEAD_BYTES, video_container
from finetune_trainer.data import images
from finetune_trainer.data.images import ImageError, ImageFacts, require_size
from finetune_trainer.data.needs import Needs

DEMUXERS: Final = {"mp4": "mov", "matroska": "matroska"}
CODECS: Final = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "mpeg4"})
MOST_PER_SECOND: Final = 480
"""Frames that are decoded for each second of a clip, at most; more are an attack, or from a slow-motion camera."""
LOWEST_RATE: Final = 16.0
"""The lowest frame rate of all video models."""
MISSING_S: Final = 0.25
"""A file that ends so much earlier than its stated duration is truncated."""
ROUNDING_S: Final = 0.002
"""Matroska has times in whole milliseconds."""
TURNS: Final = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
"""Counterclockwise, in both libraries."""


def inspect(data: bytes, needs: Needs) -> ImageFacts:
    """Decode the frames of an image or clip that are trained on, and discard the pixels. Raises ImageError."""
    demuxer = _demuxer(data, needs)
    if demuxer is None:
        return images.inspect(data, needs)
    # At the lowest frame rate a clip reaches furthest into the file.
    *_, last = (frame.size for frame in islice(_frames_of_video(data, demuxer, needs, LOWEST_RATE), needs.clips))
    return ImageFacts(last, ())


def decode_frames(data: bytes, needs: Needs, most: int, rate: float) -> list[Image.Image]:
    """The first frames of a clip, at most `most`, upright, in RGB; a still is one frame. Raises ImageError.

    A video with more than `rate` frames per second is sampled at that rate; no frame is repeated. Of an animated image
    every frame is used.
    """
    demuxer = _demuxer(data, needs)
    if demuxer is None:
        return images.decode_frames(data, needs, most)
    return list(islice(_frames_of_video(data, demuxer, needs, rate), most))


def _demuxer(data: bytes, needs: Needs) -> str | None:
    """The name of FFmpeg's demuxer for a video; None if it is not a video, or clips are not wanted."""
    container = video_container(data[:HEAD_BYTES]) if needs.clips else None
    return None if container is None else DEMUXERS[container]


def _frames_of_video(data: bytes, demuxer: str, needs: Needs, rate: float) -> Iterator[Image.Image]:
    import av

    if len(data) > needs.max_image_bytes:
        raise ImageError(f"the video has {len(data)} bytes, more than {needs.max_image_bytes}")
    try:
        with av.open(BytesIO(data), format=demuxer, metadata_errors="replace") as container:
            yield from _chosen(container, _opened(container, needs), rate)
    except ImageError:
        raise
    except Exception as error:  # decoders raise any exception on untrusted input
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"the video is damaged: {said}") from None


def _opened(container: Any, needs: Needs) -> Any:
    """The video stream, with limits on its decoder. Raises ImageError."""
    if not container.streams.video:
        raise ImageError("the file does not contain a video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ImageError("the video is damaged: it does not state its codec")
    codec = stream.codec_context.codec.canonical_name
    if codec not in CODECS:
        raise ImageError(f"the video's codec is {codec}; supported are {', '.join(sorted(CODECS))}")
    require_size((stream.width, stream.height), needs, needs.clips)
    stream.codec_context.options = {"max_pixels": str(needs.max_pixels)}
    stream.codec_context.thread_count = 1
    return stream


def _chosen(container: Any, stream: Any, rate: float) -> Iterator[Image.Image]:
    """The sampled frames, to the end of the file. Raises ImageError if it ends too early."""
    size, due, seconds = (stream.width, stream.height), 0.0, 0.0
    start, taken = None, 0
    for decoded, frame in enumerate(container.decode(stream)):
        if (frame.width, frame.height) != size:
            raise ImageError("the size of the video changes")
        if frame.time is None:
            raise ImageError(f"frame {decoded} of the video has no timestamp")
        start = frame.time if start is None else start
        seconds = frame.time - start
        if decoded > MOST_PER_SECOND * (seconds + 1):
            raise ImageError(f"the video has more than {MOST_PER_SECOND} frames per second")
        if seconds >= due - ROUNDING_S:
            due = max(due + 1 / rate, seconds)
            taken += 1
            yield _upright(frame)
    if not taken:
        raise ImageError("the video has no frame that can be decoded")
    length = _length(container, stream)
    if length is not None and seconds + 1 / (stream.average_rate or rate) < length - MISSING_S:
        raise ImageError(f"the video ends after {seconds:.2f} s, but its duration is {length:.2f} s")


def _length(container: Any, stream: Any) -> float | None:
    """The stated duration in seconds."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / 1_000_000)
    return None


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    turn = TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)
