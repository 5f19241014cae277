"""What is wrong with a dataset."""


class Invalid(Exception):
    """The dataset cannot be trained on, now or later; the text names file, row and column, and the way out."""
