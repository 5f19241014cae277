"""watch -> queue -> observe -> plan -> act. `plan.py` and `policies/` decide; everything else reads or carries out."""
