"""`kubectl finetune logs`: what the trainer or the provider writes."""
