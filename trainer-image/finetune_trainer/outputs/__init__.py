"""The result: exported, checked, and written to `output.uri`. One file for each scheme of the URI."""
