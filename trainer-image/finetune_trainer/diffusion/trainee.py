"""The trainee of every image and video family: a diffusion model on cached latents.

The loss of a sample is the mean squared error (float32) between the model's prediction for its noised latent and the
family's target (rectified flow: noise - latent), times the weight of its timestep; timestep and noise come from the
sample's own generator (`schedule.py`). Only samples with images of the same sizes share a forward pass, because rotary
positions are those of the first. Of two denoisers, the timestep of a sample selects the one that is trained on it, and
the samples of a pass have the same one. Grouping changes no number, because timestep and noise belong to the sample.

A denoiser without a sample in a step has no gradients: AdamW changes neither its weights nor its moments, and does not
count the step. Gradients are clipped over all weights that have them, as if they were one model's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.recipes import ImageRecipe
from finetune_trainer.contract import Batch, Inputs
from finetune_trainer.diffusion import adapter
from finetune_trainer.diffusion.cache import TensorCache
from finetune_trainer.diffusion.conditions import Conditions, Picture, Row
from finetune_trainer.diffusion.denoiser import Base, Denoiser, Noisy, batched
from finetune_trainer.diffusion.samples import Samples
from finetune_trainer.diffusion.timesteps import draw_sigma, weight
from finetune_trainer.errors import DataError
from finetune_trainer.reporting.progress import emit
from finetune_trainer.schedule import Draw, sample_generator
from finetune_trainer.settings import parameter
from finetune_trainer.training import full_finetune

if TYPE_CHECKING:
    from PIL import Image

Kind = Callable[[Base, Advanced, int], Denoiser]
"""The denoiser class of a family, or a function that selects one."""
CACHE: Final = "latents"
TEXT: Final = "text."
CONTROL: Final = "control."


class DiffusionTrainee:
    """Trains a denoiser. control_columns: of images to edit."""

    def __init__(self, inputs: Inputs, kind: Kind, control_columns: tuple[str, ...]) -> None:
        self._inputs, self._settings = inputs, inputs.settings
        self._recipe = cast(ImageRecipe, inputs.recipe)
        self._timestep_type: str = parameter(self._recipe, "timestep_type")
        self._trigger: str | None = getattr(self._recipe, "trigger_word", None)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        base = Base(inputs.folder, inputs.base_model, device, dtype)
        self._denoiser = kind(base, inputs.advanced, parameter(self._recipe, "num_frames") or 1)
        self.rows: Sequence[int] = range(len(inputs.store))
        # The target's own first frame is the control.
        self._control_columns = control_columns or (
            (self._recipe.image_column,) if self._denoiser.takes_first_frame else ()
        )
        self.notes: list[str] = list(self._denoiser.notes)
        self._require_one_target()
        self._row = lru_cache(maxsize=4096)(self._read_row)
        self._conditions = Conditions(self._denoiser, TensorCache(inputs.cache_dir / CACHE))
        self._samples = Samples(inputs, self._denoiser, self._conditions, self._row(0), self.notes)
        self._encode_all(texts_now=parameter(self._recipe, "cache_text_embeddings") is not False)
        self._denoiser.load_model()
        self._choose_weights()
        self._denoiser.models.train()

    # ---------------------------------------------------------------- Trainee

    def parameters(self) -> list[torch.nn.Parameter]:
        """The LoRA matrices, or all weights, of the denoisers."""
        return [weight for weight in self._denoiser.models.parameters() if weight.requires_grad]

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """Groups of samples for one denoiser with targets and controls of equal sizes, in order of first appearance."""
        size = 1 if singly else size
        alike: dict[Any, list[Draw]] = defaultdict(list)
        for draw in draws:
            sigma = draw_sigma(self._timestep_type, self._generator(draw))
            alike[self._denoiser.part_at(sigma), self._conditions.shapes(self._row(draw.row))].append(draw)
        return [group[at : at + size] for group in alike.values() for at in range(0, len(group), size)]

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """Cached latents and embeddings, timesteps, and float32 noise in the shape of the latents.

        Timesteps and noise are drawn even without `noise` (for the probe): a denoiser needs them.
        """
        del noise
        rows = [self._row(draw.row) for draw in draws]
        latents = torch.stack([self._conditions.target(row) for row in rows])
        generators = [self._generator(draw) for draw in draws]
        sigmas = [draw_sigma(self._timestep_type, generator) for generator in generators]
        tensors = {
            "latents": latents,
            "sigma": torch.tensor(sigmas),
            "weight": torch.tensor([weight(self._timestep_type, sigma) for sigma in sigmas]),
            "noise": torch.stack([torch.randn(latents.shape[1:], generator=generator) for generator in generators]),
        }
        controls = [self._conditions.controls(row) for row in rows]
        for number in range(len(controls[0])):
            tensors[f"{CONTROL}{number}"] = torch.stack([control[number] for control in controls])
        texts = [
            {**self._conditions.text(row.caption, row.controls), **self._denoiser.extra_conditioning(row.target.size)}
            for row in rows
        ]
        tensors.update({TEXT + name: tensor for name, tensor in batched(texts).items()})
        tokens = len(rows) * (latents[0].numel() + sum(control.numel() for control in controls[0]))
        return Batch(tensors, len(rows), len(rows), tokens // latents.shape[1])

    def train(self, training: bool) -> None:
        """Dropout on or off."""
        self._denoiser.models.train(training)

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """The weighted mean squared errors, summed over the samples."""
        part = self._denoiser.part_at(float(batch.tensors["sigma"][0]))
        prediction, tensors = self._predict(batch, part)
        latents, noise = tensors["latents"].float(), tensors["noise"]
        error = (prediction.float() - self._denoiser.target(latents, noise, tensors["sigma"])) ** 2
        return (error.flatten(1).mean(1) * tensors["weight"]).sum()

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The predictions, float32 on the CPU; of both denoisers if there are two, so that each is compared."""
        return torch.cat([self._predict(batch, part)[0].float().cpu() for part in self._denoiser.parts])

    def parts(self) -> dict[str, torch.nn.Module]:
        """The trained parts, the autoencoder, and the text encoders unless they have been freed."""
        return {**self._denoiser.models, **self._denoiser.encoders()}

    def save(self, folder: Path) -> None:
        """Write the adapter, or all trained weights."""
        (adapter.save if self._settings.use_lora else full_finetune.save)(self._denoiser.models, folder)

    def restore(self, folder: Path) -> None:
        """Restore exactly what `save` wrote."""
        (adapter.restore if self._settings.use_lora else full_finetune.restore)(self._denoiser.models, folder)

    def export(self, folder: Path) -> None:
        """Write two adapter files for each trained part, or its whole folder."""
        if self._settings.use_lora:
            adapter.export(self._denoiser, self._settings, folder)
        else:
            for part, model in self._denoiser.models.items():
                model.save_pretrained(folder / part)

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of the exported file that differs most from the trained model.

        In bf16 every matrix is compared instead (in `adapter.reloaded`): outputs would only show rounding.
        """
        if self._settings.use_lora:
            expected = self.outputs(batch)
            found = list(adapter.reloaded(self._denoiser, folder, partial(self.outputs, batch)))
            if self._denoiser.base.dtype is not torch.float32:
                return expected
            return max(found, key=lambda output: float((output - expected).abs().max()))
        trained = self._denoiser.models
        try:
            self._denoiser.models = self._denoiser.load_exported(folder)
            return self.outputs(batch)
        finally:
            self._denoiser.models = trained

    # --------------------------------------------------------------- Sampling

    def sample(self, step: int, last: bool, folder: Path, stopped: Callable[[], bool]) -> None:
        """Write the samples that are due after a step."""
        if self._samples.due(step, last):
            self.train(False)
            try:
                with self._denoiser.vae_on_device():
                    self._samples.generate(step, folder, stopped)
            finally:
                self.train(True)

    # ------------------------------------------------------------- Offloading

    def offloadable(self) -> list[torch.nn.Module]:
        """The encoders: every row of the dataset can be encoded before the first step."""
        return self._denoiser.offloadable()

    def offload(self) -> None:
        """Encode the remaining texts, and free the text encoders, regardless of `cacheTextEmbeddings`."""
        if not self._texts_cached:
            self._encode_all(texts_now=True)
        self._denoiser.offload()

    # ----------------------------------------------------------------- inside

    def _generator(self, draw: Draw) -> torch.Generator:
        return sample_generator(self._settings.seed, draw.step, draw.index)

    def _predict(self, batch: Batch, part: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        base = self._denoiser.base
        tensors = {name: tensor.to(base.device, non_blocking=True) for name, tensor in batch.tensors.items()}
        noisy = self._denoiser.noised(tensors["latents"].float(), tensors["noise"], tensors["sigma"])
        controls = [tensors[name] for name in tensors if name.startswith(CONTROL)]
        text = {name.removeprefix(TEXT): tensor for name, tensor in tensors.items() if name.startswith(TEXT)}
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype is torch.bfloat16):
            seen = Noisy(noisy.to(base.dtype), tensors["sigma"], controls, text)
            return self._denoiser.predict(self._denoiser.models[part], seen), tensors

    def _choose_weights(self) -> None:
        if self._settings.use_lora:
            adapter.attach(self._denoiser, self._settings, self._inputs.advanced.lora_dropout)
        else:
            models = self._denoiser.models
            full_finetune.require_memory(models[self._denoiser.part], list(models.values()))
            models.to(torch.float32).requires_grad_(True)  # in bf16 small updates would be rounded away

    def _encode_all(self, texts_now: bool) -> None:
        """Encode every row into the cache; its text too, unless that is left to the first use."""
        group = self._inputs.group
        if group.first:
            self._samples.encode()
        for number in range(group.rank, len(self.rows), group.world_size):
            self._inputs.check()
            row = self._row(number)
            self._require_motion(number, self._conditions.target(row))
            self._conditions.controls(row)
            if texts_now:
                self._conditions.text(row.caption, row.controls)
            if number % 100 > 99 - group.world_size:
                emit("encoding", rows=number + 1, of=len(self.rows))
        group.barrier()
        self._texts_cached = texts_now
        if texts_now:
            self._denoiser.free_text_encoders()

    def _read_row(self, number: int) -> Row:
        store = self._inputs.store
        index = self.rows[number]
        sample = store[index]
        pictures = {
            column: [
                Picture(image["digest"], (image["w"], image["h"]), partial(self._load, index, column, place))
                for place, image in enumerate(sample.images[column])
            ]
            for column in (self._recipe.image_column, *self._control_columns)
        }
        controls = tuple(picture for column in self._control_columns for picture in pictures[column])
        caption = with_trigger(sample.text[self._recipe.caption_column], self._trigger)
        return Row(caption, pictures[self._recipe.image_column][0], controls)

    def _load(self, index: int, column: str, place: int, most: int) -> list[Image.Image]:
        store = self._inputs.store
        return store.load_frames(store[index], column, place, most, self._denoiser.rate)

    def _require_motion(self, number: int, latent: torch.Tensor) -> None:
        if self._denoiser.takes_first_frame and latent.shape[1] == 1:
            row, column = self._inputs.store[self.rows[number]].row, self._recipe.image_column
            raise DataError(f"row {row}: column {column!r} has too few frames: those after the first are trained on")

    def _require_one_target(self) -> None:
        column, store = self._recipe.image_column, self._inputs.store
        wrong = [store[index].row for index in self.rows if len(store[index].images[column]) != 1]
        if wrong:
            listed = ", ".join(map(str, wrong[:20]))
            raise DataError(
                f"column {column!r} has several images in {len(wrong)} rows, but a row has one target: {listed}"
            )


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word in place of `[trigger]`, or at its start if it does not occur."""
    if not trigger:
        return caption
    caption = caption.replace("[trigger]", trigger)
    return caption if trigger in caption else f"{trigger} {caption}"
