"""`kubectl finetune submit` and `retry`: a new run."""
