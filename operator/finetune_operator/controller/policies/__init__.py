"""One rule of the operator per file, pure. `plan.py` holds their order."""
