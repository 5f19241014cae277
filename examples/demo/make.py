"""`python -m examples.demo.make --out DIR`: the demo's dataset and model, ready to be put on a claim.

DIR/data/train.parquet      columns question, answer, image
DIR/model/                  a checkpoint folder with random weights
"""

import argparse
from pathlib import Path

from examples.demo.checkpoint import TinySize, make_qwen3_vl
from examples.demo.receipts import make_receipts

DEMO_SIZE = TinySize(
    hidden=64, intermediate=192, layers=3, head_dim=16, mrope_section=(4, 2, 2), vision_hidden=64, output_scale=8.0
)


DEMO_ROWS = 24


def make(out: Path, rows: int = DEMO_ROWS) -> tuple[Path, Path]:
    """Write both and return (dataset file, model folder)."""
    dataset = make_receipts(out / "data" / "train.parquet", rows)
    model = make_qwen3_vl(out / "model", DEMO_SIZE)
    return dataset, model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the demo's dataset and its tiny model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; made if it is not there")
    parser.add_argument("--rows", type=int, default=DEMO_ROWS, help="receipts to render (default: %(default)s)")
    options = parser.parse_args()
    for path in make(options.out, options.rows):
        print(path)


if __name__ == "__main__":
    main()
