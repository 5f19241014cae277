"""`python -m finetune_operator.cli` is `kubectl finetune`."""

from finetune_operator.cli.app import main

main()
