"""`kubectl finetune artifacts`: what a run has made, listed and downloaded."""
