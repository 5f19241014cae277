"""`kubectl finetune convert`: from and to the request bodies of the providers."""
