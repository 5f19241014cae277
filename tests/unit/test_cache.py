"""The cache: newest first, whatever the order in which news arrive."""

from __future__ import annotations

from typing import Any

from finetune_operator.controller.cache import Store
from finetune_operator.controller.trim import trim_finetune

NAME = ("default", "a")


def thing(version: int, uid: str = "1", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "a", "uid": uid, "resourceVersion": str(version), **metadata}}


def test_the_newest_version_stays() -> None:
    store = Store(trim_finetune)
    assert store.put(thing(9))
    assert not store.put(thing(8))
    assert not store.put(thing(9))
    assert store.put(thing(10))
    assert store.get(NAME) == thing(10)


def test_versions_are_numbers() -> None:
    store = Store(trim_finetune)
    store.put(thing(9))
    assert store.put(thing(10))


def test_a_successor_of_the_same_name_replaces_and_is_never_replaced_by_its_predecessor() -> None:
    """The answer to a write on the old one can arrive after the watch has brought the new one."""
    store = Store(trim_finetune)
    store.put(thing(5))
    assert store.put(thing(8, uid="2"))
    assert not store.put(thing(7, uid="1"))
    assert store.get(NAME) == thing(8, uid="2")


def test_the_deletion_of_a_predecessor_leaves_its_successor() -> None:
    store = Store(trim_finetune)
    store.put(thing(8, uid="2"))
    store.delete(thing(7, uid="1"))
    store.remove(NAME, "1")
    assert store.get(NAME) is not None


def test_the_answer_to_a_write_does_not_bring_the_deleted_back() -> None:
    """The write came first, but its answer arrives after the watch's news of the deletion."""
    store = Store(trim_finetune)
    store.put(thing(5))
    store.delete(thing(7))
    assert not store.put(thing(6))
    assert store.get(NAME) is None


def test_what_only_left_the_selection_may_come_back() -> None:
    """A Job without our label is DELETED to a watch with a selector; we adopt it by a read, and it is alive."""
    store = Store(trim_finetune)
    store.put(thing(5))
    store.delete(thing(7))
    assert store.put(thing(7))


def test_deletions_kept_in_mind_are_bounded() -> None:
    store = Store(trim_finetune)
    for uid in range(10_000):
        store.delete(thing(7, uid=str(uid)))
    assert len(store._deleted) < 5000


def test_what_nobody_reads_is_not_kept() -> None:
    store = Store(trim_finetune)
    bulky = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "finetune.dev/adopt": "1"}
    store.put(thing(1, managedFields=[{}], annotations=bulky))
    kept = store.get(NAME)
    assert kept is not None
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"finetune.dev/adopt": "1"}


def owned(name: str, owner: str, version: int = 1, *, controller: bool = True) -> dict[str, Any]:
    reference = {"uid": owner, "controller": controller}
    return thing(version, uid=f"uid of {name}", name=name, ownerReferences=[reference])


def names_of(store: Store, owner: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in store.owned_by(owner))


def test_what_somebody_owns_is_found_by_the_owner_s_uid() -> None:
    store = Store(trim_finetune)
    for body in (owned("a-1", "a"), owned("a-2", "a"), owned("b-1", "b"), thing(1, uid="nobody's", name="c")):
        store.put(body)
    store.put(owned("d", "a", controller=False))
    assert names_of(store, "a") == ["a-1", "a-2"]
    assert names_of(store, "b") == ["b-1"]
    assert store.owned_by("c") == []


def test_it_is_found_in_its_newest_version_and_by_its_newest_owner() -> None:
    store = Store(trim_finetune)
    store.put(owned("a-1", "a", 1))
    store.put(owned("a-1", "a", 2))
    assert [each["metadata"]["resourceVersion"] for each in store.owned_by("a")] == ["2"]
    store.put(owned("a-1", "b", 3))
    assert (names_of(store, "a"), names_of(store, "b")) == ([], ["a-1"])
    store.put(owned("a-1", "a", 2))
    assert names_of(store, "a") == []


def test_what_is_gone_is_owned_by_nobody() -> None:
    store = Store(trim_finetune)
    store.put(owned("a-1", "a"))
    store.put(owned("a-2", "a"))
    store.delete(owned("a-1", "a", 2))
    assert names_of(store, "a") == ["a-2"]
    store.remove(("default", "a-2"), "another")
    assert names_of(store, "a") == ["a-2"]
    store.remove(("default", "a-2"))
    assert store.owned_by("a") == []
    assert not store._owned, "nothing is kept for those that own nothing any more"
