"""Where datasets are and results go beside the cluster's claims: S3, the Hugging Face hub, Oxen. No torch here.

The endpoints are the official ones, or what the user's own Secret names; what a *dataset* refers to never comes this
way but through `data/fetch.py` and its guard.
"""
