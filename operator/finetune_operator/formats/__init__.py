"""The files that datasets are made of, read alike by the operator (for providers) and by the trainer.

    layout.py    which files of a folder make up the dataset, and which names are safe (pure)
    tables.py    parquet, csv, JSON lines: streamed
    archive.py   ZIP from strangers
    media.py     pictures and sounds told by their first bytes
    bounds.py    the memory of a process that reads them
    invalid.py   what all of them raise

A leaf: it knows no network, no Kubernetes and no resource. This `__init__` imports nothing, so that processes that
read hostile files start fast.
"""
