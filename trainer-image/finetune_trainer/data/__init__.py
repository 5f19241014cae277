"""The dataset: located, read with bounded memory, validated row by row, and stored for random access. No torch."""
