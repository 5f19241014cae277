"""Datasets for hosted providers: read from where the user keeps them, turned into what a provider takes.

    sources.py   hf://, s3://, https:// -> a listing and files, through the guarded fetcher, within the disk budget
    layout.py    which files of a folder a provider's dataset is made from (pure)
    reader.py    tables, archives and folders -> examples; runs in a child process (worker.py), because all of it is
                 hostile input to C++ and must neither crash the operator nor hold its interpreter lock
    prepare.py   the three together: `examples`, `originals`
    bundle.py    examples -> a ZIP, or its base64 inside a JSON body, streamed

How tables and archives are read is in `finetune_operator/formats`, which the trainer shares.

This package's `__init__` imports nothing, so that the child process starts fast.
"""
