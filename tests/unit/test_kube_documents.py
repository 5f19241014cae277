"""What orjson refuses in a list or an event costs the one object that it stands in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.depth import too_deep
from finetune_operator.kube.documents import LEVELS, Unreadable, parse, parse_each, shallow

TEXTS = st.text(st.sampled_from('[]{}",:\\a\n é😀'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
FAULTS = {
    "no low surrogate": rb'"\ud800"',
    "no high surrogate": rb'"\udc00 \ud83d\ude00"',
    "no UTF-8": b'"\xff"',
    "control character": b'"a\x01"',
    "no number": b"NaN",
    "too large a number": b"1e400",
    "another word": b"nil",
    "nothing": b"",
}


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def item(name: str, inside: bytes) -> bytes:
    """An object as the API server writes it, its members in alphabetical order."""
    metadata = (
        b'{"annotations":{"a":"}],[{\\""},"name":"%s","namespace":"default","resourceVersion":"7"}' % name.encode()
    )
    return b'{"kind":"FineTune","metadata":%s,"spec":{"advanced":{"x":%s,"y":"]"}}}' % (metadata, inside)


def a_list(*items: bytes) -> bytes:
    return b'{"kind":"FineTuneList","metadata":{"continue":"","resourceVersion":"9"},"items":[%s]}\n' % b",".join(items)


def emptied(value: Any, level: int = 1) -> Any:
    """The same without what stands below `LEVELS` levels."""
    if isinstance(value, dict):
        return {key: emptied(each, level + 1) for key, each in value.items()} if level <= LEVELS else {}
    if isinstance(value, list):
        return [emptied(each, level + 1) for each in value] if level <= LEVELS else []
    return value


@given(JSON, st.integers(0, LEVELS + 5), st.booleans())
def test_exactly_what_is_too_deep_is_emptied(inner: Any, levels: int, objects: bool) -> None:
    value = inner
    for _ in range(levels):
        value = {"[{": value, "b": [1, "]}"]} if objects else [value, "]}", {}]
    for text in (orjson.dumps(value), orjson.dumps(value, option=orjson.OPT_INDENT_2)):
        assert orjson.loads(shallow(text)) == emptied(value)


@pytest.mark.parametrize("levels", [LEVELS, 1005, 1100, 10_000])
def test_a_deep_object_is_still_too_deep_and_can_be_written(levels: int) -> None:
    read = parse(item("deep", nested(levels)))
    assert too_deep(read["spec"]["advanced"])
    assert read["spec"]["advanced"]["y"] == "]"
    if levels > 1024:
        assert orjson.dumps([{"op": "add", "value": read}])


def test_deep_objects_in_a_list_and_in_an_event_leave_all_else_as_it_is() -> None:
    good = [item(f"good-{number}", b'"[[["') for number in range(500)]
    deep = item("deep", nested(1100))
    read = parse_each(a_list(*good[:250], deep, *good[250:]))
    assert read["metadata"] == {"continue": "", "resourceVersion": "9"}
    deep_read = read["items"].pop(250)
    assert read == orjson.loads(a_list(*good))
    assert (deep_read["metadata"]["name"], too_deep(deep_read["spec"])) == ("deep", True)
    event = parse_each(b'{"type":"ADDED","object":%s}\n' % deep)
    assert (event["type"], event["object"]["metadata"]) == ("ADDED", deep_read["metadata"])
    assert too_deep(event["object"]["spec"])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_a_text_costs_its_object_which_is_named(fault: bytes) -> None:
    good = item("good", b'"[[["')
    naming = {"metadata": {"name": "bad", "namespace": "default", "resourceVersion": "7"}}
    read = parse_each(a_list(good, item("bad", fault), item("deep", nested(1100))))
    assert [type(each) for each in read["items"]] == [dict, Unreadable, dict]
    assert read["items"][0] == orjson.loads(good)
    assert read["items"][1] == naming
    assert "line 1 column" in read["items"][1].why
    assert read["metadata"]["resourceVersion"] == "9"
    event = parse_each(b'{"type":"MODIFIED","object":%s}\n' % item("bad", fault))
    assert event == {"type": "MODIFIED", "object": naming}


def test_a_fault_in_the_metadata_leaves_what_can_be_read_of_the_name() -> None:
    broken = b'{"metadata":{"labels":{"a":NaN},"name":"bad","namespace":"\xff","managedFields":[{}]}}'
    (read,) = parse_each(a_list(broken))["items"]
    assert read == {"metadata": {"name": "bad"}}
    (read,) = parse_each(a_list(b'{"metadata":NaN}'))["items"]
    assert read == {"metadata": {}}
    (read,) = parse_each(a_list(b"nil"))["items"]
    assert read == {"metadata": {}}


WHOLE = a_list(item("a", b"1"), item("bad", b"NaN"), item("c", b"1"))


@pytest.mark.parametrize("length", range(0, len(WHOLE) - 2, 7))
def test_a_list_that_has_been_cut_off_is_none(length: int) -> None:
    """Or what is missing would be taken for deleted."""
    for text in (WHOLE, WHOLE.replace(b"NaN", nested(1100))):
        with pytest.raises(orjson.JSONDecodeError):
            parse_each(text[:length])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b'"items',
        nested(1100)[:-1],
        WHOLE + WHOLE,
        WHOLE + b"NaN",
        b"{" + WHOLE,
        WHOLE.replace(b'"9"', b'"\xff"'),
        b'{"spec":{"x":NaN}}',
        b'{"items":NaN}',
        b'{"items"}',
        b"[1,nil]",
        b'{"items":[}}',
    ],
)
def test_what_is_no_list_is_refused_as_a_whole(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        parse_each(text)
