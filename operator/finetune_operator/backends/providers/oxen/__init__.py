"""Oxen: fine-tunes of a repository's data."""
