"""What the language models share: rows as tokens, what of them is learnt, the adapter and its files."""
