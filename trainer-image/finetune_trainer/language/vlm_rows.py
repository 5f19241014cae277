"""One row of an image-to-text dataset as tokens, labels and pixels, with the checkpoint's own processor and template.

The images come first, then the question, unless the question has marks for their places. What the model writes after
the generation prompt is tokenized separately, and is the only label: the answer and the end of the turn, and whatever
the template writes before the answer (a model that thinks closes its thinking block first). The images of a row that is
too long are downscaled, never cropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from finetune_trainer.data.needs import IMAGE_MARK
from finetune_trainer.errors import ConfigError
from finetune_trainer.language.messages import THINKING_END
from finetune_trainer.language.rows import Fit, RowTooLongError, RowUnfitError
from finetune_trainer.training.packing import IGNORED

if TYPE_CHECKING:
    from PIL import Image

_MARKER: Final = "finetune-answer-mark"
_THINKING_START: Final = "<think>"


@dataclass(frozen=True)
class EncodedRow:
    """A row in tensors.

    input_ids, labels: (length,) int64. kinds: token types, (length,) int64. pixels: (patches, channels), or None. grid:
    patches of each image in time, height and width, (images, 3), or None.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    pixels: torch.Tensor | None
    grid: torch.Tensor | None


class RowEncoder:
    """Encodes rows with a processor and its chat template.

    seq_length: tokens of a row, at most. downscale: whether images may be made smaller to fit.
    """

    def __init__(self, processor: Any, seq_length: int, *, enable_thinking: bool, downscale: bool) -> None:
        self._processor, self._seq_length = processor, seq_length
        self.enable_thinking, self._downscale = enable_thinking, downscale
        image_processor = processor.image_processor
        self._cell = (image_processor.patch_size * image_processor.merge_size) ** 2
        self._merge = image_processor.merge_size**2
        self._min_pixels = image_processor.size["shortest_edge"]
        self._turn_start, self.turn_end = self._around_answer()

    def thinking_matters(self) -> bool:
        """Whether enable_thinking has an effect in the template."""
        return self._render("x", 0, enable_thinking=True) != self._render("x", 0, enable_thinking=False)

    def fit(self, question: str, answer: str, sizes: list[tuple[int, int]]) -> Fit:
        """The row's length in tokens. sizes: (width, height) of its images. Raises RowTooLongError, RowUnfitError."""
        text = self._text_tokens(question, answer, len(sizes))
        tokens = text + self._image_tokens(sizes, None)
        if tokens <= self._seq_length:
            return Fit(tokens)
        room = self._seq_length - text
        if not sizes or not self._downscale:
            raise RowTooLongError(f"has {tokens} tokens, {text} of them text; seqLength is {self._seq_length}")
        cells = room // len(sizes)
        while cells >= 1:
            tokens = text + self._image_tokens(sizes, cells * self._cell)
            if tokens <= self._seq_length:
                return Fit(tokens, cells * self._cell)
            cells -= max(1, math.ceil((tokens - self._seq_length) / len(sizes)))
        raise RowTooLongError(
            f"has {text} tokens of text and {len(sizes)} images, which do not fit into seqLength {self._seq_length}"
        )

    def encode(self, question: str, answer: str, images: list[Image.Image]) -> EncodedRow:
        """Tokens and pixels of one row. images: in RGB. Raises RowTooLongError."""
        fit = self.fit(question, answer, [image.size for image in images])
        prompt = self._render(question, len(images))
        arguments = {} if fit.max_pixels is None else {"images_kwargs": {"size": self._size(fit.max_pixels)}}
        encoded = self._processor(text=[prompt], images=images or None, return_tensors="pt", **arguments)
        ids = encoded["input_ids"][0]
        completion = torch.tensor(self._tokens(self._completion(question, answer, len(images))))
        input_ids = torch.cat([ids, completion])
        if len(input_ids) != fit.tokens:
            raise RuntimeError(f"a row was expected to have {fit.tokens} tokens, but has {len(input_ids)}")
        kinds = encoded.get("mm_token_type_ids")
        return EncodedRow(
            input_ids=input_ids,
            labels=torch.cat([torch.full_like(ids, IGNORED), completion]),
            kinds=torch.cat([torch.zeros_like(ids) if kinds is None else kinds[0], torch.zeros_like(completion)]),
            pixels=encoded.get("pixel_values"),
            grid=encoded.get("image_grid_thw"),
        )

    def _render(self, question: str, images: int, **options: bool) -> str:
        options = options or {"enable_thinking": self.enable_thinking}
        return self._apply([_asked(question, images)], add_generation_prompt=True, **options)

    def _completion(self, question: str, answer: str, images: int) -> str:
        """What the model writes after the generation prompt. Raises RowUnfitError."""
        if _THINKING_START not in answer and THINKING_END not in answer:
            return self._turn_start + answer + self.turn_end
        prompt = self._render(question, images)
        whole = self._apply([_asked(question, images), _answered(answer)], enable_thinking=self.enable_thinking)
        completion = whole.removeprefix(prompt) if whole.startswith(prompt) else answer + self.turn_end
        opened = self._apply([_asked(question, images)]).count(_THINKING_START)
        if (prompt + completion).count(_THINKING_START) - opened > 1:
            raise RowUnfitError("the answer has a thinking block, and the chat template writes another: remove it")
        if answer.rpartition(THINKING_END)[2].strip() not in completion:
            raise RowUnfitError("the chat template leaves out a part of the answer, which has a thinking block")
        return completion

    def _around_answer(self) -> tuple[str, str]:
        """What the template writes around an answer, after the generation prompt: for Qwen `` and `<|im_end|>\\n`.

        Raises ConfigError if the generation prompt opens a thinking block that the turn does not close.
        """
        turns = [_asked("x", 0), _answered(_MARKER)]
        before, marker, after = self._apply(turns, enable_thinking=self.enable_thinking).rpartition(_MARKER)
        if not marker or not before:
            raise ConfigError("the chat template of the base model drops the assistant's answer")
        prompt = self._render("x", 0)
        start = before.removeprefix(prompt) if before.startswith(prompt) else ""
        told = prompt + start
        if told.count(_THINKING_START) > told.count(THINKING_END):
            raise ConfigError(
                "the generation prompt of the base model's chat template opens a thinking block, and its turns do not "
                "close it: use the variant of the model that does not think (Instruct)"
            )
        return start, after

    def _apply(self, turns: list[dict[str, Any]], **options: bool) -> str:
        template = self._processor.chat_template
        return str(
            self._processor.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options)
        )

    def _text_tokens(self, question: str, answer: str, images: int) -> int:
        # The template renders one placeholder token per image, which the image's tokens replace.
        completion = self._completion(question, answer, images)
        return len(self._tokens(self._render(question, images))) - images + len(self._tokens(completion))

    def _image_tokens(self, sizes: list[tuple[int, int]], max_pixels: int | None) -> int:
        options: dict[str, int] = {}
        if max_pixels is not None:
            size = self._size(max_pixels)
            options = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        patches = self._processor.image_processor.get_number_of_image_patches
        return sum(int(patches(height, width, options)) // self._merge for width, height in sizes)

    def _size(self, max_pixels: int) -> dict[str, int]:
        return {"shortest_edge": min(self._min_pixels, max_pixels), "longest_edge": max_pixels}

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _asked(question: str, images: int) -> dict[str, Any]:
    """The user's turn: each image in place of its mark, or all of them before the question."""
    texts = question.split(IMAGE_MARK)
    if images and len(texts) == images + 1:
        parts = [part for text in texts for part in ({"type": "text", "text": text}, {"type": "image"})][:-1]
        return {"role": "user", "content": [part for part in parts if part.get("text") != ""]}
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": question}]}


def _answered(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}
