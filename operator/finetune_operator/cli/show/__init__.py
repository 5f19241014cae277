"""`kubectl finetune list`, `get` and `describe`."""
