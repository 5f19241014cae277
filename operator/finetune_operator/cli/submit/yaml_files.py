"""YAML and JSON as kubectl reads them: `1e-4` is a number, which PyYAML's own loader takes for a text."""

from __future__ import annotations

import re
from typing import Any

import yaml

from finetune_operator.cli.errors import UsageError

_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def documents(text: str, source: str) -> list[Any]:
    """Every document that is not empty. Raises UsageError, naming `source`."""
    try:
        # A subclass of SafeLoader: it makes plain values only.
        return [each for each in yaml.load_all(text, Loader=_Loader) if each is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{source}: {' '.join(str(error).split())[:500]}", "It must be YAML or JSON; correct it at that place."
        ) from None
