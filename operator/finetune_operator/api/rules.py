"""The rules that the API server itself enforces, in CEL, each with a sentence that says what to do.

A rule sees the object after defaulting. Transition rules (those with `oldSelf`) hang on `spec` and not on the field,
because a rule on an optional field does not run when the field is added or removed.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from finetune_operator.api.backends import (
    BACKENDS,
    CLAIM_MESSAGE,
    ENV_SOURCE_MESSAGE,
    ENV_VALUE_MESSAGE,
    POD_KEY,
    POD_KEY_MESSAGE,
    RESERVED_ENV_MESSAGE,
    RESERVED_ENV_PREFIXES,
    RESERVED_POD_DOMAINS,
    RESERVED_POD_KEY_MESSAGE,
    RESERVED_POD_KEYS,
    STORAGE_MESSAGE,
)
from finetune_operator.api.matrix import NO_TTL, TRAINS, backends_for, no_output
from finetune_operator.api.names import MAX_NAME_LENGTH
from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.recipes import RECIPES
from finetune_operator.api.spec import CREDENTIALS_MESSAGE, DOTS_MESSAGE, MODEL_OF_PROVIDER, RUN_FIELDS

OPTIONAL_RUN_FIELDS: Final = ("modelSecretRef", "output")


class Rule(NamedTuple):
    """`path`: the schema node that it hangs on, [] for items. `field_path`: the field to name, below that node.

    Messages are fixed sentences: the API server's cost estimate refuses expressions that put a number into one.
    """

    path: str
    rule: str
    message: str
    field_path: str | None = None

    def wire(self) -> dict[str, str]:
        """A member of `x-kubernetes-validations`."""
        wire = {"rule": self.rule, "message": self.message}
        if self.field_path:
            wire["fieldPath"] = self.field_path
        return wire


def rules() -> Iterator[Rule]:
    """All of them, in a fixed order."""
    yield _name()
    yield _exactly_one("spec.recipe", RECIPES)
    yield _exactly_one("spec.backend", BACKENDS)
    yield from (_trains(backend) for backend in BACKENDS)
    yield from _run()
    yield from _job()
    yield from _upstream()
    yield from _uris()


def _name() -> Rule:
    return Rule(
        "",
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && !self.metadata.name.contains('.')",
        f"metadata.name must be a DNS label of at most {MAX_NAME_LENGTH} characters (a-z, 0-9 and -), "
        "because the names of its Jobs are derived from it",
    )


def _exactly_one(path: str, members: tuple[str, ...]) -> Rule:
    present = ", ".join(f"has(self.{member})" for member in members)
    return Rule(
        path,
        f"[{present}].filter(x, x).size() == 1",
        f"{path} must set exactly one of {', '.join(members)}",
    )


def _trains(backend: str) -> Rule:
    recipes = TRAINS[backend]
    allowed = " || ".join(f"has(self.recipe.{recipe})" for recipe in recipes)
    missing = next(recipe for recipe in RECIPES if recipe not in recipes)
    elsewhere = " or ".join(backends_for(missing))
    supported = f"recipe{'s' if len(recipes) > 1 else ''} {', '.join(recipes)}"
    return Rule(
        "spec",
        f"!has(self.backend.{backend}) || ({allowed})",
        f"backend {backend} supports only {supported}; use backend {elsewhere} for other recipes",
        field_path=".recipe",
    )


def _run() -> Iterator[Rule]:
    yield Rule(
        "spec",
        "self.run >= oldSelf.run",
        "spec.run cannot be lowered; raise it above its current value to run again",
        field_path=".run",
    )
    for field in RUN_FIELDS:
        same = f"self.{field} == oldSelf.{field}"
        if field in OPTIONAL_RUN_FIELDS:
            same = f"(has(self.{field}) ? has(oldSelf.{field}) && {same} : !has(oldSelf.{field}))"
        yield Rule(
            "spec",
            f"self.run > oldSelf.run || {same}",
            f"spec.{field} cannot be changed within a run; raise spec.run in the same update to start a new run with "
            "it",
            field_path=f".{field}",
        )


def _job() -> Iterator[Rule]:
    yield Rule(
        "spec",
        "!has(self.backend.job) || has(self.backend.job.storage) || has(self.output)",
        "the result of the Job would be lost with its pod; set spec.backend.job.storage, spec.output, or both",
        field_path=".backend",
    )
    yield Rule(
        "spec",
        "!has(self.backend.job) || self.deletionPolicy != 'Orphan'",
        "deletionPolicy Orphan is for runs at a provider; a Job is deleted with its FineTune, so use Cancel with "
        "backend job",
        field_path=".deletionPolicy",
    )
    yield Rule(
        "spec.backend.job.storage",
        "has(self.size) != has(self.claimName)",
        STORAGE_MESSAGE,
    )
    yield Rule(
        "spec.backend.job.storage",
        "!has(self.claimName) || !(has(self.storageClassName) || has(self.accessModes))",
        CLAIM_MESSAGE,
    )
    for field in ("podLabels", "podAnnotations"):
        path = f"spec.backend.job.{field}"
        yield Rule(path, f"self.all(key, key.matches('{POD_KEY}'))", POD_KEY_MESSAGE)
        keys = ", ".join(f"'{key}'" for key in RESERVED_POD_KEYS)
        domains = " || ".join(f"key.startsWith('{domain}/')" for domain in RESERVED_POD_DOMAINS)
        yield Rule(path, f"!self.exists(key, key in [{keys}] || {domains})", RESERVED_POD_KEY_MESSAGE)
    reserved = " || ".join(f"self.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)
    yield Rule(
        "spec.backend.job.env[]",
        f"!({reserved})",
        RESERVED_ENV_MESSAGE,
        field_path=".name",
    )
    yield Rule(
        "spec.backend.job.env[]",
        "has(self.value) != has(self.valueFrom)",
        ENV_VALUE_MESSAGE,
    )
    yield Rule(
        "spec.backend.job.env[].valueFrom",
        "has(self.secretKeyRef) != has(self.configMapKeyRef)",
        ENV_SOURCE_MESSAGE,
    )


def _upstream() -> Iterator[Rule]:
    for name, provider in PROVIDERS.items():
        if not provider.capabilities.gives_weights:
            yield Rule(
                "spec",
                f"!has(self.backend.{name}) || !has(self.output)",
                f"spec.output: {no_output(name)}",
                field_path=".output",
            )
    yield Rule(
        "spec",
        "has(self.backend.job) || !has(self.ttlSecondsAfterFinished)",
        f"spec.ttlSecondsAfterFinished: {NO_TTL}",
        field_path=".ttlSecondsAfterFinished",
    )
    over = "has(self.status.completionTime) || !has(self.status.run) || self.status.run != self.spec.run"
    yield Rule(
        "",
        "!self.spec.suspend || oldSelf.spec.suspend || has(self.spec.backend.job) || !has(self.status) || "
        f"!has(self.status.upstream) || !has(self.status.upstream.startedTime) || {over}",
        "spec.suspend: a run at a provider cannot be suspended once it has started there; stop it with spec.cancel",
        field_path=".spec.suspend",
    )


def _uris() -> Iterator[Rule]:
    for path, value in (
        ("baseModel", "self.baseModel"),
        ("dataset", "self.dataset.uri"),
        ("output", "self.output.uri"),
    ):
        absent = "!has(self.output) || " if path == "output" else ""
        yield Rule(
            "spec",
            f"has(self.backend.job) || {absent}!{value}.startsWith('pvc://')",
            f"spec.{path}: only backend job can use a claim (pvc://); use "
            f"{MODEL_OF_PROVIDER if path == 'baseModel' else 's3:// or hf://'} with other backends",
            field_path=f".{path}",
        )
    for path in ("spec.dataset.uri", "spec.output.uri", "spec.baseModel"):
        yield Rule(
            path,
            "!self.matches('(^|/)[.][.](/|$)')",
            f"{path} {DOTS_MESSAGE}",
        )
    yield Rule(
        "spec.dataset.uri",
        "!self.matches('^[a-z0-9]+://[^/]*@')",
        f"spec.dataset.uri {CREDENTIALS_MESSAGE}",
    )
