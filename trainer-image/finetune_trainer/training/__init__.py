"""Training: the loop and its memory, checkpoints, LoRA or all weights, packed rows. Imports torch."""
