"""The entry point `kubectl-finetune`; `python -m finetune_operator.cli` is the same."""

from __future__ import annotations

import sys


def main() -> None:
    """Says which extra is missing, where the package was installed for the operator alone."""
    try:
        from finetune_operator.cli.app import main as program
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("kubectl finetune needs more than the operator does: pipx install 'finetune-operator[cli]'")
    program()


if __name__ == "__main__":
    main()
