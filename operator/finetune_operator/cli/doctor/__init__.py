"""`kubectl finetune doctor`: what is missing in a cluster, and what to do."""
