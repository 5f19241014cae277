"""The generated files are up to date, and the schema is one that Kubernetes can hold."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field

from finetune_operator.api.crd import MAX_CRD_BYTES, SELECTABLE_FIELDS, crd, manifest, open_api_schema, structural
from finetune_operator.api.matrix import backends_for
from finetune_operator.api.recipes import RECIPE_MODELS, RECIPES, RecipeSpec
from finetune_operator.api.spec import MUTABLE_FIELDS, RUN_FIELDS, FineTuneSpec

CRDS = Path(__file__).parents[2] / "crds"


def test_the_manifest_is_what_the_models_make() -> None:
    assert (CRDS / "finetune.dev_finetunes.yaml").read_text() == manifest(), "run `make crds`"


def test_the_reference_is_what_the_manifest_makes() -> None:
    location = importlib.util.spec_from_file_location("reference", CRDS / "reference.py")
    assert location is not None
    assert location.loader is not None
    reference = importlib.util.module_from_spec(location)
    location.loader.exec_module(reference)
    assert (CRDS / "README.md").read_text() == reference.reference(crd()), "run `make crds`"


def test_the_manifest_reads_back_as_it_was() -> None:
    assert yaml.safe_load(manifest()) == crd()


def test_client_side_apply_has_room_for_it() -> None:
    assert len(json.dumps(crd()).encode()) < MAX_CRD_BYTES


def _nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(f"{path}.{name}", child)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from _nodes(f"{path}.{keyword}", schema[keyword])


SPEC = list(_nodes("spec", structural(FineTuneSpec)))


@pytest.mark.parametrize(("path", "node"), SPEC, ids=[path for path, _ in SPEC])
def test_every_node_of_the_spec_is_typed_bounded_and_explained(path: str, node: dict[str, Any]) -> None:
    assert "type" in node or node.get("x-kubernetes-int-or-string") or node.get("anyOf")
    if node.get("type") == "string":
        assert "maxLength" in node or "enum" in node or node.get("pattern") == "^[a-z]{2}$"
    if node.get("type") == "array":
        assert "maxItems" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node


DESCRIBED = [
    (path, node)
    for part in ("spec", "status")
    for path, node in _nodes(part, open_api_schema()["properties"][part])
    if "properties" in node or not path.endswith((".items", ".additionalProperties"))
]
VERBS = re.compile(
    "is|are|has|names|holds|takes|tells|selects|determines|describes?|identifies|records|lets|runs|trains|clones|"
    "initialises"
)
UNITS = {"Seconds": "seconds", "Bytes": "bytes", "Time": "UTC (RFC 3339)", "Height": "pixels", "Width": "pixels"}


@pytest.mark.parametrize(("path", "node"), DESCRIBED, ids=[path for path, _ in DESCRIBED])
def test_kubectl_explain_has_a_sentence_about_every_field(path: str, node: dict[str, Any]) -> None:
    """As in Kubernetes' own API: it begins with the field's name, and the members of a list with the name of theirs."""
    name, text = path.rpartition(".")[2], node.get("description", "")
    subject, verb, *rest = text.split()
    assert subject == name or (name == "items" and subject[0].isupper())
    assert VERBS.fullmatch(verb)
    assert len(rest) > 2
    assert text.endswith(".")
    for suffix, unit in UNITS.items():
        assert unit in text or not name.endswith(suffix)


@pytest.mark.parametrize(("path", "node"), DESCRIBED, ids=[path for path, _ in DESCRIBED])
def test_kubectl_explain_has_the_bounds_and_the_default(path: str, node: dict[str, Any]) -> None:
    """All of them in the spec. Who reads a status is told of what is left out, not of how long a text may be."""
    told = {"maximum", "maxItems", "maxProperties"}
    if path.startswith("spec"):
        told |= {"minimum", "minItems", "default"} | (set() if "x-kubernetes-int-or-string" in node else {"maxLength"})
    numbers = re.findall(r"[\w./-]*\w", node["description"])
    for keyword in told & node.keys():
        value = node[keyword]
        assert (value if isinstance(value, str) else json.dumps(value).removesuffix(".0")) in numbers, keyword


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_the_backends_that_train_it(recipe: str) -> None:
    text = open_api_schema()["properties"]["spec"]["properties"]["recipe"]["properties"][recipe]["description"]
    assert tuple(re.findall(r"\w+", text.partition("Supported by ")[2].replace(" and ", " "))[1:]) == backends_for(
        recipe
    )


def test_hyper_parameters_have_no_default_in_the_schema() -> None:
    recipe = structural(RecipeSpec)
    assert [path for path, node in _nodes("recipe", recipe) if "default" in node] == []


def test_every_field_of_the_spec_is_either_frozen_or_free() -> None:
    fields = [str(field.alias) for field in FineTuneSpec.model_fields.values()]
    assert sorted((*RUN_FIELDS, *MUTABLE_FIELDS)) == sorted(fields)


def test_selectable_fields_are_leaves() -> None:
    schema = open_api_schema()
    assert len(SELECTABLE_FIELDS) <= 8
    for path in SELECTABLE_FIELDS:
        node = schema
        for name in path.strip(".").split("."):
            node = node["properties"][name]
        assert node["type"] in ("string", "boolean", "integer")


def test_the_table_of_recipes_is_complete() -> None:
    assert tuple(RECIPE_MODELS) == RECIPES
    assert all(model.model_fields["seed"] for model in RECIPE_MODELS.values())


def test_what_kubernetes_cannot_say_is_an_error_and_not_dropped() -> None:
    class Pair(BaseModel):
        pair: tuple[int, str]

    class Steps(BaseModel):
        number: Annotated[int, Field(multiple_of=5)]

    for model, keyword in ((Pair, "prefixItems"), (Steps, "multipleOf")):
        with pytest.raises(ValueError, match=keyword):
            structural(model)


def test_json_schema_becomes_structural() -> None:
    class Inner(BaseModel):
        """Inside."""

        above: Annotated[float, Field(gt=0)]

    class Outer(BaseModel):
        """Outside."""

        inner: Inner | None = None
        names: list[str] = []

    assert structural(Outer) == {
        "description": "Outside.",
        "type": "object",
        "properties": {
            "inner": {
                "description": "Inside.",
                "type": "object",
                "required": ["above"],
                "properties": {"above": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
            },
            "names": {"type": "array", "items": {"type": "string"}},
        },
    }
