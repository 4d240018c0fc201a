"""Values as bytes: exactly, or not at all."""

import enum
from collections import OrderedDict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import Checkpoint, CheckpointCorruptError, CheckpointEncodeError, CheckpointMismatchError
from trioflow.checkpoint.codec import Codec, digest_of, fingerprint, sealed, verified
from trioflow.checkpoint.large import is_large

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
ANYTHING = st.recursive(
    PLAIN | st.decimals() | st.fractions() | st.sets(st.integers()) | st.dates() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)
codec: Codec[Any] = Codec(Any)


def exact(value):
    """Equal, with the types of everything in it."""
    if isinstance(value, list):
        return [exact(part) for part in value]
    if isinstance(value, dict):
        return {name: exact(part) for name, part in value.items()}
    return (type(value), value)


@given(PLAIN)
def test_plain_data_comes_back_exactly(value):
    assert exact(codec.decode(codec.encode(value))) == exact(value)


@given(ANYTHING)
def test_what_is_taken_comes_back_equal_and_the_rest_is_refused(value):
    try:
        data = codec.encode(value)
    except CheckpointEncodeError:
        return
    assert codec.decode(data) == value


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), (1,), {1}, frozenset({1}), 2**70, -(2**70), Decimal("1.5"), Colour.RED, object(), 1j,
        datetime.fromisoformat("2026-01-01"), [[{"a": (1,)}]], "\ud800", lambda: None,
    ],
)  # fmt: skip
def test_what_would_change_is_refused(value):
    with pytest.raises(CheckpointEncodeError, match="cannot be saved"):
        codec.encode(value)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=UTC), OrderedDict(a=1), {1: 2}, bytearray(b"x"), float("inf")])
def test_what_comes_back_equal_is_taken(value):
    assert codec.decode(codec.encode(value)) == value


def test_bytes_that_are_no_value_are_refused():
    with pytest.raises(CheckpointMismatchError):
        codec.decode(b"\xc1")
    with pytest.raises(CheckpointMismatchError):
        Codec(int).decode(codec.encode("text"))
    assert repr(codec) == "<Codec of the state>"


@given(st.binary(max_size=200))
def test_hostile_bytes_are_a_value_or_refused(data):
    for kind in (Any, dict[str, int], Checkpoint):
        try:
            Codec(kind).decode(data)
        except CheckpointMismatchError:
            pass


def make(**changes):
    fields = {
        "run_id": "r", "graph": "g", "step": 1, "node": "a", "next_node": "b", "iterations": 1, "state": b"s",
        "status": "running", "pause": None, "created_at": 1.5, "version": 1,
    }  # fmt: skip
    return sealed(Checkpoint(**{**fields, **changes}))


def test_the_digest_depends_on_every_field():
    changes = [
        {"run_id": "q"}, {"graph": "h"}, {"step": 2}, {"node": "x"}, {"next_node": "x"}, {"iterations": 2}, {"state": b"t"},
        {"status": "failed"}, {"pause": b"s"}, {"pause": b""}, {"created_at": 2.5}, {"version": 2}, {"node": "ab", "next_node": ""},
    ]  # fmt: skip
    digests = {digest_of(make(**change)) for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1
    assert {len(digest) for digest in digests} == {64}


def test_a_checkpoint_must_be_the_one_that_was_asked_for():
    assert verified(make(), "r", 1) == verified(make(), "r", None) == make()
    for run_id, step in (("q", None), ("r", 2)):
        with pytest.raises(CheckpointCorruptError):
            verified(make(), run_id, step)


def test_fingerprints_tell_items_apart():
    assert fingerprint({"a": 1}) == fingerprint({"a": 1})
    assert len({fingerprint(item) for item in (1, "1", b"1", [1], None, 1.5)}) == 6
    with pytest.raises(CheckpointEncodeError, match="give key="):
        fingerprint(object())


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ({"a": 1}, False), ("x" * 1_000, False), ({"a": "x" * 300_000}, True), ([["x" * 200_000] * 2], True),
        (list(range(10_000)), True), ({"a": {"b": b"x" * 300_000}}, True), ([{}] * 100, False),
    ],
)  # fmt: skip
def test_large_values_are_told_from_small_ones(value, large):
    assert is_large(value) is large
