"""The flags that every command has, called as kubectl calls them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """What a command prints."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster and namespace. None: as the kubeconfig says."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None

    def flags(self) -> str:
        """To be put into a command that somebody may copy; empty where nothing was given."""
        given = (("--kubeconfig", self.kubeconfig), ("--context", self.context), ("-n", self.namespace))
        return "".join(f" {flag} {value}" for flag, value in given if value)


Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="The kubeconfig file.", show_default=False)
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="The context of the kubeconfig.", show_default=False)
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="The namespace. Default: the context's.", show_default=False
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="In every namespace.")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="What to print.", show_default=True)]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A FineTune: NAME, finetune/NAME, or @latest for the newest.")
]
