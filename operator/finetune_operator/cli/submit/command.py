"""`kubectl finetune submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_operator.api.providers import NAMES
from finetune_operator.cli.errors import CommandError, UsageError
from finetune_operator.cli.options import Context, Kubeconfig, Namespace, Output, OutputFormat, Target

if TYPE_CHECKING:
    from finetune_operator.cli.submit.manifest import SubmitFlags

LARGEST_FILE = 4 * 2**20
RECIPES = (
    "textGeneration, textChatMessages, imageToText, imageGeneration, imageEditing, multiImageEditing, imageToVideo, "
    "textToVideo, voice"
)
"""As text, and tested: their models take a third of a second to import, and help has to be there at once."""


def _option(name: str, metavar: str, text: str, *more: str) -> Any:
    return typer.Option(name, *more, metavar=metavar, help=text, show_default=False)


Text = str | None
Texts = list[str] | None


def submit(
    file: Annotated[Text, _option("--filename", "FILE", "A file with a FineTune; - is stdin. Flags win.", "-f")] = None,
    name: Annotated[Text, _option("--name", "NAME", "Name of the FineTune.")] = None,
    model: Annotated[
        Text, _option("--model", "MODEL", "Base model: a hub id (with @REVISION), or pvc://CLAIM/PATH.", "-m")
    ] = None,
    recipe: Annotated[Text, _option("--recipe", "RECIPE", f"What is trained: {RECIPES}.", "-r")] = None,
    dataset: Annotated[Text, _option("--dataset", "URI", "hf:// s3:// https:// pvc:// oxen://", "-d")] = None,
    parameters: Annotated[
        Texts, _option("--param", "NAME=VALUE", "A parameter of the recipe, such as loraRank=16; repeat it.", "-p")
    ] = None,
    backend: Annotated[
        Text, _option("--backend", "NAME", f"Where it runs: job (default), {', '.join(NAMES)}.", "-b")
    ] = None,
    backend_parameters: Annotated[
        Texts, _option("--backend-param", "NAME=VALUE", "A field of the backend, such as resources.limits.memory=96Gi.")
    ] = None,
    settings: Annotated[
        Texts, _option("--set", "PATH=VALUE", "Any other field of the spec, such as deletionPolicy=Orphan.")
    ] = None,
    gpus: Annotated[Text, _option("--gpus", "N", "Devices; 0 trains on the CPU.")] = None,
    gpu_resource: Annotated[
        Text, _option("--gpu-resource", "NAME", "What counts them, such as nvidia.com/mig-3g.20gb.")
    ] = None,
    image: Annotated[Text, _option("--image", "IMAGE", "Trainer image. Default: the operator's.")] = None,
    storage: Annotated[Text, _option("--storage", "SIZE", "Size of a claim for checkpoints and the adapter.")] = None,
    storage_class: Annotated[Text, _option("--storage-class", "NAME", "Storage class of that claim.")] = None,
    storage_claim: Annotated[Text, _option("--storage-claim", "NAME", "A claim that exists, instead.")] = None,
    cache_claim: Annotated[Text, _option("--cache-claim", "NAME", "A claim that caches models and datasets.")] = None,
    secret: Annotated[Text, _option("--secret", "NAME", "Secret with the provider's credentials.")] = None,
    dataset_secret: Annotated[Text, _option("--dataset-secret", "NAME", "Secret for the dataset.")] = None,
    model_secret: Annotated[Text, _option("--model-secret", "NAME", "Secret for a gated base model.")] = None,
    output_uri: Annotated[Text, _option("--to", "URI", "Where the adapter goes: s3:// hf:// pvc://")] = None,
    output_secret: Annotated[Text, _option("--to-secret", "NAME", "Secret for that.")] = None,
    queue: Annotated[Text, _option("--queue", "NAME", "Kueue's LocalQueue.")] = None,
    priority_class: Annotated[Text, _option("--queue-priority", "NAME", "Kueue's WorkloadPriorityClass.")] = None,
    labels: Annotated[Texts, _option("--label", "NAME=VALUE", "A label of the FineTune; repeat it.")] = None,
    run: Annotated[Text, _option("--run", "N", "Number of the run; 1 for a new FineTune.")] = None,
    deadline: Annotated[Text, _option("--deadline", "SECONDS", "Longest time that the run may take.")] = None,
    ttl: Annotated[Text, _option("--ttl", "SECONDS", "When the run's children are removed after its end.")] = None,
    suspend: Annotated[bool, typer.Option("--suspend", help="Create it suspended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it; ask no API server.")] = False,
    server_dry_run: Annotated[
        bool, typer.Option("--server-dry-run", help="Let the API server check it; create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
    output: OutputFormat = Output.TABLE,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Create a FineTune from flags, from a file, or from a file with flags over it.

    Everything is checked before it is sent. For example, on one GPU:

    \b
      kubectl finetune submit --name receipts --model Qwen/Qwen3-VL-8B-Instruct \\
        --recipe imageToText -p questionColumn=prompt -p answerColumn=text -p imageColumns=image \\
        --dataset hf://datasets/acme/receipts/train.parquet --storage 50Gi --watch

    \b
    At a provider:  --backend oxen --secret oxen --backend-param namespace=acme --backend-param repository=receipts
    From a file:    kubectl finetune submit -f finetune.yaml -p loraRank=32
    Parameters of a recipe, with defaults:  kubectl explain finetune.spec.recipe.imageToText
    """
    from finetune_operator.cli.submit.manifest import SubmitFlags

    flags = SubmitFlags(
        name=name,
        recipe=recipe,
        backend=backend,
        parameters=parameters or (),
        backend_parameters=backend_parameters or (),
        settings=settings or (),
        labels=labels or (),
        queue=queue,
        priority_class=priority_class,
        suspend=suspend,
        values={
            "model": model,
            "model_secret": model_secret,
            "dataset": dataset,
            "dataset_secret": dataset_secret,
            "output": output_uri,
            "output_secret": output_secret,
            "run": run,
            "deadline": deadline,
            "ttl": ttl,
            "gpus": gpus,
            "gpu_resource": gpu_resource,
            "image": image,
            "storage": storage,
            "storage_class": storage_class,
            "storage_claim": storage_claim,
            "cache_claim": cache_claim,
            "secret": secret,
        },
    )
    finetune = _made(file, flags)
    if dry_run:
        _print(finetune, Output.YAML if output in (Output.TABLE, Output.WIDE) else output)
        return
    _send(finetune, Target(kubeconfig, context, namespace), output, watch=watch, server_dry_run=server_dry_run)


def _made(file: str | None, flags: SubmitFlags) -> dict[str, Any]:
    from finetune_operator.cli.submit.manifest import built, checked, from_file

    start = from_file(read(file), file) if file else None
    finetune = built(flags, start)
    checked(finetune)
    return finetune


def read(file: str) -> str:
    """A file, or stdin for `-`. Raises UsageError where it cannot be read."""
    try:
        if file == "-":
            return sys.stdin.read(LARGEST_FILE)
        path = Path(file)
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(
                f"{file}: is larger than {LARGEST_FILE} bytes: this is not a FineTune", "Name a file with one FineTune."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file}: {getattr(error, 'strerror', None) or error}", "Name a file that can be read, or - for stdin."
        ) from None


def _print(finetune: dict[str, Any], output: Output) -> None:
    from finetune_operator.cli.output.printing import out, serialized

    metadata = {"name": finetune["metadata"].get("generateName", "").rstrip("-"), **finetune["metadata"]}
    out(serialized([{**finetune, "metadata": metadata}], output, single=True) or "")


def _send(finetune: dict[str, Any], target: Target, output: Output, *, watch: bool, server_dry_run: bool) -> None:
    from finetune_operator.api.notes import notes
    from finetune_operator.api.spec import FineTuneSpec
    from finetune_operator.cli.kube.cluster import connect
    from finetune_operator.cli.output.printing import note, out, serialized
    from finetune_operator.cli.watch.follow import follow
    from finetune_operator.kube import resources
    from finetune_operator.kube.errors import AlreadyExists

    cluster = connect(target)
    home = finetune["metadata"].setdefault("namespace", cluster.namespace)
    if target.namespace and home != target.namespace:
        raise UsageError(f"the file says namespace {home}, and -n says {target.namespace}", "Leave one of them out.")
    try:
        created = cluster.create(resources.finetunes(home), finetune, dry_run=server_dry_run)
    except AlreadyExists:
        name = finetune["metadata"]["name"]
        raise CommandError(
            f"there is a FineTune {name} already",
            f"Run it again: kubectl finetune retry {name} (with -p to change parameters); "
            "change it from a file: kubectl apply -f; or choose another --name.",
        ) from None
    name = created["metadata"]["name"]
    text = serialized([created], output, single=True)
    if text is not None:
        out(text)
    else:
        out(f"finetune.finetune.dev/{name} created{' (server dry run)' if server_dry_run else ''}")
    for sentence in notes(FineTuneSpec.model_validate(created["spec"])):
        note(sentence)
    if server_dry_run:
        return
    cluster.namespace = home
    if watch:
        raise typer.Exit(follow(cluster, name, target.flags()))
    if text is None:
        out(f"  next: kubectl finetune watch {name}{target.flags()}")
