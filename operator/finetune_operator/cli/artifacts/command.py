"""`kubectl finetune artifacts`: list and download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_operator.api.plain_text import one_line
from finetune_operator.cli.options import Context, Kubeconfig, Name, Namespace, Output, OutputFormat, Target

artifacts = typer.Typer(
    help="What a run has made: list it, download it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Run = Annotated[
    int | None, typer.Option("--run", metavar="N", min=1, help="An earlier run (the last five).", show_default=False)
]


@artifacts.command("list")
def list_artifacts(
    name: Name,
    run: Run = None,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Name, size, address and digest of every file."""
    from finetune_operator.cli.artifacts.records import artifact_table, recorded
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.output.printing import as_json, as_yaml, out

    found = recorded(find(connect(Target(kubeconfig, context, namespace)), name), run)
    if output is Output.NAME:
        out("\n".join(one_line(each.name) for each in found))
    elif output in (Output.JSON, Output.YAML):
        value = {"artifacts": [each.wire() for each in found]}
        out(as_json(value) if output is Output.JSON else as_yaml(value))
    else:
        out(artifact_table(found, wide=output is Output.WIDE))


@artifacts.command("download")
def download_artifacts(
    name: Name,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-d", metavar="DIR", help="Where to. Default: NAME-RUN.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="Only files of such names; repeat it.", show_default=False),
    ] = None,
    run: Run = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that differ.")] = False,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="Image of the reader pod, with sh, cat and base64. Default: the run's own.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Bring the adapter to this machine, and check every file's digest.

    From a claim (pvc://) by a small pod that mounts it read-only and is removed afterwards. From s3:// and hf:// with
    the credentials of this machine's environment (AWS_ACCESS_KEY_ID …, HF_TOKEN), else with those of the Secret that
    spec.output names.
    """
    from finetune_operator.cli.artifacts.download import Download
    from finetune_operator.cli.artifacts.records import chosen, recorded
    from finetune_operator.cli.artifacts.sources import Sources
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.kube.finetunes import find
    from finetune_operator.cli.output.printing import out

    cluster = connect(Target(kubeconfig, context, namespace))
    finetune = find(cluster, name)
    number = run or int(finetune["spec"].get("run") or 1)
    files = chosen(recorded(finetune, run), only or ())
    target = directory or Path(f"{finetune['metadata']['name']}-{number}")
    with Sources(cluster, finetune, number, image) as sources:
        Download(target, force=force).fetch(files, sources)
    out(f"{len(files)} files in {target}")
