"""Rendered receipts with a question and its answer: a dataset small enough to make in a second."""

import random
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

SHOPS: Final = ("Blue Mill", "Corner Cafe", "Green Fork", "Old Bakery", "Sun Market")
ITEMS: Final = ("tea", "bread", "soup", "apples", "rice", "milk", "cake", "eggs")
QUESTIONS: Final = ("What is the total?", "Which shop is it?", "How many items are on the receipt?")
SIZE: Final = (96, 128)


def make_receipts(path: Path, rows: int = 24, seed: int = 0) -> Path:
    """Write a parquet file with the columns question, answer and image ({bytes, path}), and return its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random_source = random.Random(seed)
    table = pa.Table.from_pylist([_row(number, random_source) for number in range(rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=64)
    return path


def _row(number: int, source: random.Random) -> dict[str, Any]:
    shop = source.choice(SHOPS)
    prices = {item: source.randint(1, 9) for item in source.sample(ITEMS, source.randint(2, 4))}
    question = QUESTIONS[number % len(QUESTIONS)]
    answers = (f"The total is {sum(prices.values())} euros.", f"The shop is {shop}.", f"There are {len(prices)} items.")
    buffer = BytesIO()
    _receipt(shop, prices).save(buffer, "PNG")
    return {
        "question": question,
        "answer": answers[number % len(QUESTIONS)],
        "image": {"bytes": buffer.getvalue(), "path": f"receipt-{number:03d}.png"},
    }


def _receipt(shop: str, prices: dict[str, int]) -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    draw.text((8, 6), shop, fill="black", font=font)
    for line, (item, price) in enumerate(prices.items()):
        draw.text((8, 28 + 16 * line), f"{item:<8}{price:>3}", fill="black", font=font)
    draw.line((8, 98, SIZE[0] - 8, 98), fill="black")
    draw.text((8, 104), f"total {sum(prices.values())}", fill="black", font=font)
    return image
