"""What the image and video families share: sizes, timesteps, caches, the adapter and its files, and samples."""
