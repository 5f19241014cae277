"""Pictures for people: the curve of the loss, and a contact sheet of all samples."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

LOSS: Final = "loss.png"
SHEET: Final = "samples/contact-sheet.png"
ROUNDS: Final = 12
"""Rounds of samples on the sheet, at most: the first, the last, and others evenly spaced between them."""
CELL: Final = 256
"""Longest side of a sample on the sheet in pixels; less if there are many in a row."""
WIDEST: Final = 4096
MARGIN, HEADER, FONT_SIZE = 8, 40, 13
_SAMPLE = re.compile(r"^step-(\d+)-(\d+)\.(png|webp)$")


def draw_loss(metrics: Path, picture: Path, title: str) -> bool:
    """Draw the loss of every step, its running mean, and the learning rate. False if there are no steps."""
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not steps:
        return False
    with TemporaryDirectory(prefix="matplotlib-") as settings:
        os.environ.setdefault("MPLCONFIGDIR", settings)  # the home of a pod may be read-only
        figure = _loss_figure(steps, title)
        _put(picture, lambda path: figure.savefig(path, format="png"))
    return True


def _loss_figure(steps: Sequence[dict[str, Any]], title: str) -> Any:
    from matplotlib.figure import Figure

    numbers = [line["step"] for line in steps]
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    losses = [line["loss"] for line in steps]
    marker = "." if len(steps) < 50 else ""
    loss.plot(numbers, losses, color="tab:blue", alpha=0.35, linewidth=1, marker=marker, label="each step")
    loss.plot(numbers, running_mean(losses), color="tab:blue", linewidth=2, label="running mean")
    loss.set_ylabel("loss")
    loss.set_title(title.replace("$", r"\$"), fontsize=11)
    loss.legend(frameon=False)
    rate.plot(numbers, [line["learning_rate"] for line in steps], color="tab:grey", marker=marker)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """The exponential moving average over about a fortieth of all values to either side, so that it does not lag."""
    keep = 1 - 1 / max(1.0, len(values) / 40)
    back = list(reversed(_decaying_mean(reversed(values), keep)))
    return [(before + after) / 2 for before, after in zip(_decaying_mean(values, keep), back, strict=True)]


def _decaying_mean(values: Iterable[float], keep: float) -> list[float]:
    mean, weight, found = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight)  # divided by the weight: no bias at the start
    return found


def draw_sheet(samples: Path, picture: Path, prompts: Sequence[str]) -> bool:
    """Draw a row for each round of samples and a column for each prompt; a clip is its first frame.

    False if there are no samples.
    """
    found = {
        (int(name[1]), int(name[2])): path for path in samples.glob("step-*") if (name := _SAMPLE.match(path.name))
    }
    if not found:
        return False
    steps = chosen(sorted({step for step, _ in found}))
    columns = max(number for _, number in found) + 1
    cell = min(CELL, (WIDEST - MARGIN) // columns - MARGIN)
    thumbnails = {place: _thumbnail(path, cell) for place, path in found.items() if place[0] in steps}
    height = max(image.height for image in thumbnails.values())
    label = FONT_SIZE + 6
    sheet = Image.new(
        "RGB",
        (MARGIN + columns * (cell + MARGIN), HEADER + len(steps) * (height + label + MARGIN)),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, prompt in enumerate(prompts[:columns]):
        draw.text((MARGIN + number * (cell + MARGIN), MARGIN), _fitted(prompt, font, cell), "black", font)
    for row, step in enumerate(steps):
        top = HEADER + row * (height + label + MARGIN)
        draw.text((MARGIN, top), f"step {step}", "dimgrey", font)
        for number in range(columns):
            if (step, number) in thumbnails:
                sheet.paste(thumbnails[step, number], (MARGIN + number * (cell + MARGIN), top + label))
    _put(picture, lambda path: sheet.save(path, "PNG"))
    return True


def chosen(steps: Sequence[int], most: int = ROUNDS) -> list[int]:
    """At most `most` of the steps, evenly spaced, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def _thumbnail(path: Path, cell: int) -> Image.Image:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((cell, cell))
    return small


def _fitted(text: str, font: Any, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _put(picture: Path, write: Callable[[Path], object]) -> None:
    partial = picture.with_name(f".{picture.name}")
    write(partial)
    partial.chmod(0o644)
    partial.rename(picture)
