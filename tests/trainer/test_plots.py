"""The pictures at the end of a run: what is on them, and that they are there."""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from finetune_trainer.reporting import plots
from tests.trainer.datasets import picture, write_rows
from tests.trainer.runs import TrainerRun


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}  # type: ignore[misc]


def test_the_curve_of_a_run(new_run: Callable[..., TrainerRun]) -> None:
    run = new_run()
    write_rows(run.data)
    assert run.execute().code == 0

    assert run.manifest()["pictures"] == {"loss": "loss.png"}
    curve = run.output_dir / "loss.png"
    assert "loss.png" in run.manifest()["files"]
    assert curve.stat().st_mode & 0o777 == 0o644
    with Image.open(curve) as image:
        assert image.size == (990, 660)
    assert (31, 119, 180) in colours(curve)  # the line itself


def test_a_curve_with_a_hostile_title_and_none_without_steps(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("")
    assert not plots.draw_loss(metrics, tmp_path / "loss.png", "nothing")
    lines = [{"step": step, "loss": 5 * math.exp(-step / 80), "learning_rate": 1e-4} for step in range(1, 201)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plots.draw_loss(metrics, tmp_path / "loss.png", r"a $\frac{x}$ \undefined_^ name, pvc://models/tiny")


def test_drawing_leaves_nothing_among_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps({"step": 1, "loss": 1.0, "learning_rate": 1e-4}) + "\n")
    assert plots.draw_loss(metrics, tmp_path / "loss.png", "one step")
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(("count", "expected"), [(1, [3.0]), (40, None)])
def test_the_running_mean_has_no_bias(count: int, expected: list[float] | None) -> None:
    found = plots.running_mean([3.0] * count)
    assert found == pytest.approx([3.0] * count)
    assert expected in (None, found)
    assert plots.running_mean([1.0, 2.0, 9.0]) == [1.0, 2.0, 9.0]  # too few to smooth


def test_the_sheet_has_a_row_for_each_round_and_a_column_for_each_prompt(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    for step in (200, 400, 1000):
        for number in range(2):
            picture(step // 100 + number, (512, 256)).save(samples / f"step-{step}-{number}.png")
    frames = [picture(50 + number, (64, 128)) for number in range(3)]
    frames[0].save(samples / "step-1000-2.webp", save_all=True, append_images=frames[1:], lossless=True)
    (samples / ".step-1000-3.png").write_bytes(b"half")

    sheet = tmp_path / "sheet.png"
    assert plots.draw_sheet(samples, sheet, ["an ox\n" * 50, "日本 \x07", "three"])

    with Image.open(sheet) as image:
        assert image.size == (8 + 3 * 264, 40 + 3 * (256 - 0 + 19 + 8) - 3 * 128) or image.width == 800
    found = colours(sheet)
    for number in (2, 3, 4, 5, 10, 11, 50):
        assert (37 * number % 256, 90, 160) in found
    assert (37 * 51 % 256, 90, 160) not in found  # the second frame of the clip
    assert not plots.draw_sheet(tmp_path, sheet, [])


def test_of_many_rounds_some_are_chosen() -> None:
    assert plots.chosen([1, 2, 3]) == [1, 2, 3]
    found = plots.chosen(list(range(100)), 4)
    assert found == [0, 33, 66, 99]
