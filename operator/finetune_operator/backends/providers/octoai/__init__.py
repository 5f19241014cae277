"""OctoAI's API, which others may still serve."""
