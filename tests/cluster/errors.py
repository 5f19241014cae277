"""The one error that this tool raises on purpose."""

from __future__ import annotations


class ClusterError(Exception):
    """Something the user can act on; the message names the thing and the way out."""
