"""`kubectl finetune`: FineTunes from a terminal. Whatever it does stays possible with kubectl alone."""
