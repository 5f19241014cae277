"""The result: exported and checked, then written to `output.uri`, which is checked before training. A file a scheme."""
