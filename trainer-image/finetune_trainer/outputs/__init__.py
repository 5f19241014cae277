"""Where a result goes: checked before training, written after. One file for each scheme of `output.uri`."""
