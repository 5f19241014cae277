"""core/v1's Affinity, member by member, so that a misspelt one is refused by its name instead of being dropped.

Source: the Kubernetes API reference, core/v1 Affinity and meta/v1 LabelSelector (1.31 and newer).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.base import INTEGRAL, SpecModel

Key = Annotated[str, Field(min_length=1, max_length=317)]
"""A label's: a prefix of at most 253 characters, a slash, and a name of at most 63."""
Value = Annotated[str, Field(max_length=253)]
Values = Annotated[list[Value], Field(max_length=256)]
Keys = Annotated[list[Key], Field(max_length=32)]
Weight = Annotated[int, Field(ge=1, le=100), INTEGRAL]


class NodeSelectorRequirement(SpecModel):
    """NodeSelectorRequirement is a condition on a label or a field of a node."""

    key: Key = Field(description="key is the label, or the field, that the condition is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        description="operator is how the value is compared with values: In, NotIn, Exists, DoesNotExist, Gt or Lt."
    )
    values: Values | None = Field(
        default=None,
        description="values are the values to compare with: at least one for In and NotIn, none for Exists and "
        "DoesNotExist, a single integer for Gt and Lt.",
    )


class NodeSelectorTerm(SpecModel):
    """NodeSelectorTerm holds conditions on a node, all of which must be met."""

    match_expressions: Annotated[list[NodeSelectorRequirement], Field(max_length=32)] | None = Field(
        default=None, description="matchExpressions are conditions on labels of the node."
    )
    match_fields: Annotated[list[NodeSelectorRequirement], Field(max_length=32)] | None = Field(
        default=None, description="matchFields are conditions on fields of the node, such as metadata.name."
    )


class NodeSelector(SpecModel):
    """NodeSelector selects the nodes that match at least one of its terms."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(max_length=32)] = Field(
        description="nodeSelectorTerms are the terms; a node must match one of them."
    )


class PreferredSchedulingTerm(SpecModel):
    """PreferredSchedulingTerm describes nodes that are preferred."""

    weight: Weight = Field(description="weight is what a matching node gains over others.")
    preference: NodeSelectorTerm = Field(description="preference is what a node has to match to gain the weight.")


class NodeAffinity(SpecModel):
    """nodeAffinity holds rules about the nodes that the pod may run on."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None,
        description="requiredDuringSchedulingIgnoredDuringExecution selects the nodes that the pod can be scheduled "
        "on.",
    )
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredSchedulingTerm], Field(max_length=32)] | None
    ) = Field(
        default=None,
        description="preferredDuringSchedulingIgnoredDuringExecution are preferences among the nodes that are left.",
    )


class LabelSelectorRequirement(SpecModel):
    """LabelSelectorRequirement is a condition on a label."""

    key: Key = Field(description="key is the label that the condition is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="operator is how the label is compared with values: In, NotIn, Exists or DoesNotExist."
    )
    values: Values | None = Field(
        default=None,
        description="values are the values to compare with: at least one for In and NotIn, none for Exists and "
        "DoesNotExist.",
    )


class LabelSelector(SpecModel):
    """LabelSelector is a query over labels; an empty one matches everything."""

    match_labels: Annotated[dict[str, Value], Field(max_length=32)] | None = Field(
        default=None, description="matchLabels are labels and the values that they must have."
    )
    match_expressions: Annotated[list[LabelSelectorRequirement], Field(max_length=32)] | None = Field(
        default=None, description="matchExpressions are further conditions on labels."
    )


class PodAffinityTerm(SpecModel):
    """PodAffinityTerm selects pods, and says what counts as being in the same place as one of them."""

    topology_key: Key = Field(
        description="topologyKey is the label of nodes that tells places apart, for example kubernetes.io/hostname."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="labelSelector selects the pods; without it, none."
    )
    namespaces: Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None = Field(
        default=None, description="namespaces are the namespaces of the pods. Defaults to that of the FineTune."
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description="namespaceSelector selects further namespaces by their labels; an empty one selects all.",
    )
    match_label_keys: Keys | None = Field(
        default=None, description="matchLabelKeys are labels in whose values the pods must equal this one."
    )
    mismatch_label_keys: Keys | None = Field(
        default=None, description="mismatchLabelKeys are labels in whose values the pods must differ from this one."
    )


class WeightedPodAffinityTerm(SpecModel):
    """WeightedPodAffinityTerm selects pods to be near to, or away from, where possible."""

    weight: Weight = Field(description="weight is what a matching node gains over others.")
    pod_affinity_term: PodAffinityTerm = Field(description="podAffinityTerm selects the pods and the place.")


class PodAffinity(SpecModel):
    """podAffinity holds rules that place the pod near other pods."""

    required_during_scheduling_ignored_during_execution: (
        Annotated[list[PodAffinityTerm], Field(max_length=32)] | None
    ) = Field(
        default=None,
        description="requiredDuringSchedulingIgnoredDuringExecution are terms that must all hold for the pod to be "
        "scheduled.",
    )
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[WeightedPodAffinityTerm], Field(max_length=32)] | None
    ) = Field(
        default=None,
        description="preferredDuringSchedulingIgnoredDuringExecution are preferences among the nodes that are left.",
    )


class PodAntiAffinity(PodAffinity):
    """podAntiAffinity holds rules that keep the pod away from other pods."""


class Affinity(SpecModel):
    """affinity is the core/v1 Affinity of the pod."""

    node_affinity: NodeAffinity | None = Field(
        default=None, description="nodeAffinity are rules about the nodes that the pod may run on."
    )
    pod_affinity: PodAffinity | None = Field(
        default=None, description="podAffinity are rules that place the pod near other pods."
    )
    pod_anti_affinity: PodAntiAffinity | None = Field(
        default=None, description="podAntiAffinity are rules that keep the pod away from other pods."
    )
