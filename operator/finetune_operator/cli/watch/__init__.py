"""`kubectl finetune watch`: a run followed to its end."""
