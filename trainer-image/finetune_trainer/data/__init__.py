"""The dataset: found, read with bounded memory, checked row by row, and kept for random access. No torch here."""
