"""Black Forest Labs: fine-tunes of FLUX."""
