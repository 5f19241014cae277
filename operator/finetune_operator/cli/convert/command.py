"""`kubectl finetune convert`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from finetune_operator.api.providers import NAMES
from finetune_operator.cli.submit.command import read

Provider = StrEnum("Provider", {name.upper(): name for name in NAMES})  # type: ignore[misc]  # mypy wants a literal


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, show_default=False)


Text = str | None


def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A request body (JSON) or a FineTune; - is stdin.")],
    provider: Annotated[
        Provider | None,
        typer.Option("--from", help="Whose request body it is. Default: recognised.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the FineTune.")] = "converted",
    secret: Annotated[
        Text, _option("--secret", "NAME", "Secret with the credentials. Default: called like the provider.")
    ] = None,
    dataset: Annotated[
        Text, _option("--dataset", "URI", "Where the training files are (scenario, bfl, octoai).")
    ] = None,
    repository: Annotated[
        Text, _option("--repository", "NAMESPACE/NAME", "The repository (oxen), from the request's URL.")
    ] = None,
    base_url: Annotated[Text, _option("--base-url", "URL", "Address of the service (octoai).")] = None,
    project: Annotated[Text, _option("--project", "ID", "Project (scenario), from the request's URL.")] = None,
    create: Annotated[
        Text, _option("--create", "FILE", "The body of POST /models (scenario); FILE is that of the training.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=COLUMN",
            help="A column that the body cannot name, such as imageColumn=picture; repeat it.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every request that it would become, with secrets masked.")
    ] = False,
) -> None:
    """A provider's request body into a FineTune, or a FineTune into its provider's request. Asks nobody.

    \b
      kubectl finetune convert request.json --repository acme/receipts --name receipts > finetune.yaml
      kubectl finetune convert finetune.yaml                # the body that is sent
      kubectl finetune convert finetune.yaml --dry-run      # every request, in order, with secrets masked
    """
    from finetune_operator.api.providers.wire import ConversionError
    from finetune_operator.cli.convert.conversion import (
        Answers,
        finetune_of,
        is_finetune,
        loaded,
        request_of,
        requests_of,
    )
    from finetune_operator.cli.errors import UsageError
    from finetune_operator.cli.output.printing import as_json, as_yaml, out

    found = loaded(read(file), file)
    answers = Answers(
        provider=provider.value if provider else None,
        name=name,
        secret=secret,
        dataset=dataset,
        repository=repository,
        base_url=base_url,
        project=project,
        create=loaded(read(create), create) if create else None,
        columns=columns or (),
    )
    try:
        finetune = found if is_finetune(found) else finetune_of(found, answers)
        if dry_run:
            out(requests_of(finetune))
        elif is_finetune(found):
            out(as_json(request_of(finetune)))
        else:
            out(as_yaml(finetune))
    except ConversionError as error:
        raise UsageError(
            f"{file}: {error}", "Correct the file; what each field becomes: kubectl explain finetune.spec."
        ) from None
