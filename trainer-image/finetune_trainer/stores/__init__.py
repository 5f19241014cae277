"""Remote stores for datasets and results: S3 and the Hugging Face Hub. Does not import torch.

Endpoints are the official ones, or those of the user's own Secret. The URLs in a *dataset* are never fetched here, but
by `data/fetch.py`, which checks every address.
"""
