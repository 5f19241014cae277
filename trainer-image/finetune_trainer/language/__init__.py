"""What the language families share: rows as tokens and labels, packed passes, the adapter or all weights."""
