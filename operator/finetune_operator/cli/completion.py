"""`kubectl_complete-finetune`: what kubectl asks when somebody presses Tab after `kubectl finetune`.

kubectl's rule (1.26 and later): the program gets the words so far, the last one unfinished, and prints a candidate a
line, then `:` and a directive: 4 for no file names, 0 for the shell's own completion.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

import typer

from finetune_operator.cli.app import app
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.options import Target

FILES = ("FILE", "DIR")
NO_FILES, SHELL = ":4", ":0"
Names = Callable[[Target], list[str]]


def main() -> None:
    """The entry point."""
    sys.stdout.write("\n".join(candidates(sys.argv[1:], names_in_cluster)) + "\n")


def candidates(words: Sequence[str], names: Names) -> list[str]:
    """Lines to print. `names`: the FineTunes of a target."""
    *before, unfinished = words or [""]
    command, rest = _command(before)
    option = _option(command, rest[-1]) if rest else None
    if option is not None and not option.is_flag:
        if option.metavar in FILES:
            return [SHELL]
        found = _choices(option)
    elif unfinished.startswith("-"):
        found = (name for each in command.params for name in each.opts if name.startswith("--"))
    elif hasattr(command, "commands"):
        found = iter(command.commands)
    else:
        return _arguments(command, rest, unfinished, names)
    return [*sorted(str(each) for each in found if str(each).startswith(unfinished)), NO_FILES]


def _arguments(command: Any, words: Sequence[str], unfinished: str, names: Names) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if any(each.metavar in FILES for each in arguments):
        return [SHELL]
    if not arguments:
        return [NO_FILES]
    return [*(name for name in names(_target(words)) if name.startswith(unfinished)), NO_FILES]


def _command(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The innermost command, and the words after its name."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


def _option(command: Any, word: str) -> Any:
    return next((each for each in command.params if each.param_type_name == "option" and word in each.opts), None)


def _choices(option: Any) -> Iterator[str]:
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    yield from (str(each.value) for each in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()


def _target(words: Sequence[str]) -> Target:
    flags = dict(_pairs(words))
    namespace = flags.get("--namespace") or flags.get("-n")
    return Target(flags.get("--kubeconfig"), flags.get("--context"), namespace)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if equals:
            yield flag, value
        elif index + 1 < len(words):
            yield flag, words[index + 1]


def names_in_cluster(target: Target) -> list[str]:
    """Sorted; none where the cluster does not say."""
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.kube import resources
    from finetune_operator.kube.errors import ApiError

    with suppress(ApiError, CommandError):
        cluster = connect(target)
        return sorted(each["metadata"]["name"] for each in cluster.items(resources.finetunes(cluster.namespace)))
    return []


if __name__ == "__main__":
    main()
