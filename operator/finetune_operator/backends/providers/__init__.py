"""The hosted providers: a folder for each, one line of each in `registry.py`, and what they share.

What a provider has to offer is `protocol.py`.
"""
