"""The trainer: one process per run that reads its configuration, trains, and leaves an adapter and a verdict.

Nothing here imports torch before the configuration, the columns and the images are known to be good.
"""

__version__ = "0.1.0"
