"""The rules of Jobs, one per file, pure. `plan.py` holds their order."""
