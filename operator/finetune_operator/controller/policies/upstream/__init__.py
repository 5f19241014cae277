"""The rules of runs at hosted providers, one per file, pure. `plan.py` holds their order.

A billed call is made by one process, once: its attempt is written into `status.upstream.data` by a compare-and-swap,
and only the process whose write has landed makes the call. Whoever finds an attempt that is not its own looks at the
provider first.
"""
