"""Training a diffusion model on cached latents: the same for every family.

The loss of a sample is the mean squared error (float32) between what the model says about its noisy latent and the
family's target (rectified flow: noise - picture), times the weight of its timestep; timestep and noise come from the
sample's own generator (`schedule.py`). Only samples whose pictures come to the same sizes share a forward pass: rotary
positions are those of the first one. Where two denoisers share the noise, the sample's timestep says which of them
learns from it, and those of one pass have the same. Grouping changes no number, because the draws belong to samples.

A denoiser without a sample in a step has no gradients then: AdamW leaves its weights and moments alone, and counts no
step for it. Clipping is over all weights that have gradients, as if it were one model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from finetune_operator.api.recipes import ImageRecipe
from finetune_trainer.config import Advanced
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
"""A family's class, or what chooses between its classes."""
CACHE: Final = "latents"
TEXT: Final = "text."
CONTROL: Final = "control."


class DiffusionTrainee:
    """The heavy half of every image and video family."""

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
        # The first frame of the picture to learn is that of its own control.
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
        """LoRA matrices, or all weights of the denoiser or denoisers."""
        return [weight for weight in self._denoiser.models.parameters() if weight.requires_grad]

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """Samples of one denoiser whose target and controls come to the same sizes, in order of first appearance."""
        size = 1 if singly else size
        alike: dict[Any, list[Draw]] = defaultdict(list)
        for draw in draws:
            sigma = draw_sigma(self._timestep_type, self._generator(draw))
            alike[self._denoiser.part_at(sigma), self._conditions.shapes(self._row(draw.row))].append(draw)
        return [group[at : at + size] for group in alike.values() for at in range(0, len(group), size)]

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """Latents and embeddings out of the cache, timesteps and noise; float32 noise of the latent's shape.

        Without `noise` (the probe) they are drawn all the same: a denoiser has nothing to do without.
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
        """Weighted mean squared errors, summed over the samples."""
        part = self._denoiser.part_at(float(batch.tensors["sigma"][0]))
        prediction, tensors = self._predict(batch, part)
        latents, noise = tensors["latents"].float(), tensors["noise"]
        error = (prediction.float() - self._denoiser.target(latents, noise, tensors["sigma"])) ** 2
        return (error.flatten(1).mean(1) * tensors["weight"]).sum()

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The answer, float32 on the CPU; of two denoisers both, so that neither escapes a comparison."""
        return torch.cat([self._predict(batch, part)[0].float().cpu() for part in self._denoiser.parts])

    def parts(self) -> dict[str, torch.nn.Module]:
        """The trained parts, the autoencoder, and the text encoders where they could not be freed."""
        return {**self._denoiser.models, **self._denoiser.encoders()}

    def save(self, folder: Path) -> None:
        """The adapter, or all trained weights."""
        (adapter.save if self._settings.use_lora else full_finetune.save)(self._denoiser.models, folder)

    def restore(self, folder: Path) -> None:
        """Exactly what `save` wrote."""
        (adapter.restore if self._settings.use_lora else full_finetune.restore)(self._denoiser.models, folder)

    def export(self, folder: Path) -> None:
        """Two adapter files for each trained part, or its own folder."""
        if self._settings.use_lora:
            adapter.export(self._denoiser, self._settings, folder)
        else:
            for part, model in self._denoiser.models.items():
                model.save_pretrained(folder / part)

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of the exported file that acts least like the trained model.

        In bf16 every matrix is compared instead (in `adapter.reloaded`): outputs would show the rounding only.
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
        """Write the samples that are due."""
        if self._samples.due(step, last):
            self.train(False)
            try:
                with self._denoiser.vae_on_device():
                    self._samples.make(step, folder, stopped)
            finally:
                self.train(True)

    # ------------------------------------------------------------- Offloading

    def offloadable(self) -> list[torch.nn.Module]:
        """The encoders: what they say of this dataset can all be known before the first step."""
        return self._denoiser.offloadable()

    def offload(self) -> None:
        """Ask the text encoders what is left to ask, and let them go, whatever `cacheTextEmbeddings` says."""
        if not self._texts_known:
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
            models.to(torch.float32).requires_grad_(True)  # bf16 would round small updates away

    def _encode_all(self, texts_now: bool) -> None:
        """Every latent into the cache, and every text unless that is left to the first use."""
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
        self._texts_known = texts_now
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
            raise DataError(f"row {row}: column {column!r} holds too few frames: what comes after the first is learnt")

    def _require_one_target(self) -> None:
        column, store = self._recipe.image_column, self._inputs.store
        wrong = [store[index].row for index in self.rows if len(store[index].images[column]) != 1]
        if wrong:
            listed = ", ".join(map(str, wrong[:20]))
            raise DataError(
                f"column {column!r} holds several pictures in {len(wrong)} rows, and one is learnt: {listed}"
            )


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word for `[trigger]`, and in front where it is missing."""
    if not trigger:
        return caption
    caption = caption.replace("[trigger]", trigger)
    return caption if trigger in caption else f"{trigger} {caption}"
