"""Runs at hosted providers: what the status records of them, which the rules read and write, and the calls."""
