"""Images, and their decoding. All input is untrusted.

Transparent pixels become white, as in browsers' and most servers' previews: whatever colours lie hidden under them were
never seen by the people who chose the image.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from finetune_operator.formats.media import HEAD_BYTES, nature
from finetune_trainer.data.needs import Needs

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(Exception):
    """The image cannot be trained on; the message says why."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts about a valid image. size: (width, height) in pixels, after EXIF rotation. notes: on conversions."""

    size: tuple[int, int]
    notes: tuple[str, ...]
    transparent: bool = False
    """Whether it has transparent pixels, in any frame that is used."""


def inspect(data: bytes, needs: Needs) -> ImageFacts:
    """Decode the whole image, and discard the pixels. Raises ImageError."""
    image = _open(data, needs)
    notes = []
    if _count_of_frames(image) > 1 and not needs.clips:
        notes.append("animated images: the first frame was taken")
    if image.mode in ("CMYK", "YCCK", "LAB"):
        notes.append(f"{image.mode} images were converted to RGB")
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        # Scaled decoding reads every byte of the file at a fraction of the cost.
        width, height = _upright(image)
        image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
        _load(image)
        return ImageFacts((width, height), tuple(notes))
    transparent = False
    for number in range(min(max(1, needs.clips), _count_of_frames(image))):
        _seek(image, number)
        _load(image)
        transparent = transparent or _is_transparent(image)
    if transparent:
        notes.append("transparent images were put on a white background")
    return ImageFacts(_to_rgb(image).size, tuple(notes), transparent)


def decode(data: bytes, needs: Needs) -> Image.Image:
    """The image, upright, in RGB; of an animation the first frame. Raises ImageError."""
    return _to_rgb(_open(data, needs))


def decode_frames(data: bytes, needs: Needs, most: int) -> list[Image.Image]:
    """The first frames of an animation, at most `most`, upright, in RGB; a still is one frame. Raises ImageError."""
    image = _open(data, needs)
    frames = []
    for number in range(min(most, _count_of_frames(image))):
        _seek(image, number)
        frames.append(_to_rgb(image).copy())
    return frames


def _seek(image: Image.Image, number: int) -> None:
    try:
        image.seek(number)
    except (EOFError, OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"frame {number} of the animation is damaged: {error}") from None


def _open(data: bytes, needs: Needs) -> Image.Image:
    if not data:
        raise ImageError("the image has 0 bytes")
    if len(data) > needs.max_image_bytes:
        raise ImageError(f"the image has {len(data)} bytes, more than {needs.max_image_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limits below are stricter than those of Pillow's warning
            image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        found = nature(data[:HEAD_BYTES])
        raise ImageError(f"the file is {found}; images are read as {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise ImageError(f"the image cannot be opened: {error}") from None
    require_size(image.size, needs, min(needs.clips, _count_of_frames(image)) if needs.clips > 1 else 1)
    return image


def require_size(size: tuple[int, int], needs: Needs, frames: int = 1) -> None:
    """Raise ImageError for an absurd size, or one above the limits. frames: that will be decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"the image is {width}x{height} pixels")
    if width * height > needs.max_pixels:
        raise ImageError(f"the image is {width}x{height} pixels, more than {needs.max_pixels} (a decompression bomb?)")
    if max(width, height) > needs.max_aspect * min(width, height):
        raise ImageError(f"the image is {width}x{height} pixels: longer than {needs.max_aspect:g} times its other side")
    if width * height * frames > needs.max_clip_pixels:
        raise ImageError(f"{frames} frames of {width}x{height} pixels are more than {needs.max_clip_pixels} together")


def _count_of_frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # some formats parse the whole file for it
        raise ImageError(f"the image is damaged: {error or type(error).__name__}") from None


def _load(image: Image.Image) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # decoders raise any exception on untrusted input
        raise ImageError(f"the image is damaged: {error or type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    _load(image)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing about the pixels
        upright = image
    if upright.mode.startswith("I") or upright.mode == "F":
        high = 65535.0 if upright.mode.startswith("I;16") or _brightest(upright) > 255 else 255.0
        upright = upright.convert("F").point(lambda value: value * (255.0 / high)).convert("L")
    return _on_white(upright) if _is_transparent(upright) else upright.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    """Whether a loaded image has a pixel that is not opaque."""
    if not image.has_transparency_data or image.mode.startswith(("I", "F")):
        return False
    lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return isinstance(lowest, (int, float)) and lowest < 255


def _on_white(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, (255, 255, 255, 255)), colours).convert("RGB")


def _brightest(image: Image.Image) -> float:
    extrema = image.getextrema()
    return float(extrema[1]) if isinstance(extrema[1], (int, float)) else 0.0


def _upright(image: Image.Image) -> tuple[int, int]:
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        orientation = 1
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size
