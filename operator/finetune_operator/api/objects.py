"""What the API server is asked and answers where no model of ours stands for it."""

from typing import Any

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""
