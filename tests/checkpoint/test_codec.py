"""Values as bytes: exactly, or not at all."""

import dataclasses
import enum
import hashlib
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import (
    Checkpoint,
    CheckpointCorruptError,
    CheckpointEncodeError,
    CheckpointMismatchError,
    ConfigError,
)
from trioflow.checkpoint.codec import Codec, digest_of, fingerprint, is_large, is_marked, sealed, verified

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
    if isinstance(value, list | tuple):
        return (type(value), [exact(part) for part in value])
    if isinstance(value, dict):
        return (type(value), [(exact(name), exact(part)) for name, part in value.items()])
    return (type(value), value)


@given(PLAIN)
def test_plain_data_comes_back_exactly(value):
    assert exact(codec.decode(codec.encode(value))) == exact(value)


@given(ANYTHING)
def test_what_is_taken_comes_back_exactly_and_the_rest_is_refused(value):
    try:
        data = codec.encode(value)
    except CheckpointEncodeError:
        return
    assert exact(codec.decode(data)) == exact(value)


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Level(enum.IntEnum):
    LOW = 1


NAIVE = datetime.fromisoformat("2026-01-01")


class Names(list):
    pass


class Label(str):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: int
    note: Any = dataclasses.field(default=None, compare=False)


class Typed(msgspec.Struct):
    words: tuple[str, ...] = ()
    score: float = 0
    seen: set[int] = msgspec.field(default_factory=set)
    colour: Colour = Colour.RED
    when: datetime | None = None
    point: Point | None = None
    anything: Any = None


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def holding_itself():
    value = [1.5] * 5
    value.append({"a": value})
    return value


REFUSED = [
    float("nan"), (1,), {1}, frozenset({1}), 2**70, -(2**70), Decimal("1.5"), Colour.RED, object(), 1j, Word.YES,
    Level.LOW, Counter("a"), defaultdict(int, a=1), OrderedDict(a=1), bytearray(b"x"), Names([1]), Label("x"), Point(1),
    Typed(), nested(501), nested(10_000), {Word.YES: 1}, {1.5: float("nan")}, {(Word.YES,): 1}, memoryview(b"x"),
    NAIVE, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2))), "\ud800", lambda: None,
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("around", [lambda value: value, lambda value: {"a": [1, {"b": value}]}], ids=["bare", "inside"])
def test_what_would_change_is_refused(value, around):
    with pytest.raises(CheckpointEncodeError, match="cannot be saved") as caught:
        codec.encode(around(value))
    assert caught.value.value is None


def test_what_holds_itself_is_refused():
    with pytest.raises(CheckpointEncodeError, match="cannot be saved"):
        codec.encode(holding_itself())


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 1, 1, tzinfo=UTC), {1: 2, None: 3, (1, "a"): 4, b"x": 5}, float("inf"), -0.0, nested(200), [True, 1, 1.0]],
    ids=lambda value: type(value).__name__,
)
def test_what_comes_back_as_it_was_is_taken(value):
    assert exact(codec.decode(codec.encode(value))) == exact(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [0, (1, 2)]}, r"the tuple at \['a'\]\[1\]: it would not come back equal and of the same type"),
        ({"a": {Word.YES: 1}}, r"the Word at \['a'\]\[<Word.YES: 'yes'>\] \(a key\)"),
        ([0, Typed(seen={1})], r"the Typed at \[1\]: "),
        (["x" * 2_000_000 + "\ud800"], r"the str at \[0\]: .*surrogates not allowed"),
        ([object()], r"the object at \[0\]: .*unsupported"),
        ({1}, r"; give result_type=, or convert it to plain data \(a pydantic model by model_dump\(\)\)$"),
    ],
)
def test_a_refusal_names_the_place_the_type_and_the_way_out(value, message):
    with pytest.raises(CheckpointEncodeError, match=message):
        Codec(Any, what="a result").encode(value)


class Movie(TypedDict):
    title: str
    tags: set[str]


class Pair(NamedTuple):
    left: int
    right: Colour


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (tuple[int, ...], (1, 2)), (set[Word], {Word.YES}), (frozenset[int], frozenset({1})), (Colour, Colour.RED),
        (dict[Level, list[Point]], {Level.LOW: [Point(1, note="kept")]}), (bytearray, bytearray(b"x")), (Decimal, Decimal("1.50")),
        (Movie, {"title": "M", "tags": {"a"}}), (Pair, Pair(1, Colour.RED)), (datetime, NAIVE),
        (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))), (timedelta, timedelta(seconds=1.5)),
        (Typed, Typed(("a",), 1.5, {3, 1}, Colour.RED, NAIVE, Point(2, note=[1]), {"x": [None]})),
        (list[Typed] | None, [Typed()]),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_with_a_type_what_msgspec_knows_comes_back_as_that_type(kind, value):
    typed = Codec(kind)
    back = typed.decode(typed.encode(value))
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize(
    ("kind", "value", "place"),
    [
        (Typed, Typed(anything=(1,)), r"the tuple at \['anything'\]"), (Typed, Typed(score=float("nan")), r"the float at \['score'\]"),
        (Point, Point(1, note={1}), r"the set at \['note'\]"), (list[Typed], [Typed(point=Point(Level.LOW))], r"the Level at \[0\]\['point'\]\['x'\]"),
        (dict[str, int], Counter("a"), "the Counter"), (Typed, Typed(words=["a"]), r"the list at \['words'\]"), (int, True, "the bool"),
        (set[int], {True}, "the set"), (Decimal, Decimal("sNaN"), "the Decimal"), (Movie, {"title": "M", "tags": set(), "more": 1}, "the dict"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_with_a_type_what_comes_back_as_something_else_is_refused(kind, value, place):
    with pytest.raises(CheckpointEncodeError, match=f"{place}.*; convert it to plain data"):
        Codec(kind).encode(value)


def test_an_int_where_a_float_is_annotated_comes_back_as_the_float():
    typed = Codec(Typed)
    assert typed.decode(typed.encode(Typed(score=3))) == Typed(score=3.0)
    with pytest.raises(CheckpointEncodeError):
        typed.encode(Typed(score=2**53 + 1))


def test_a_type_that_cannot_be_read_back_is_refused():
    with pytest.raises(ConfigError, match="result_type must be a type that can be decoded") as caught:
        Codec(Typed | Point, what="a result")
    assert caught.value.field == "result_type"
    for kind in (object, Names, complex, Annotated[Names, "of items"]):
        with pytest.raises(ConfigError, match="neither supported by msgspec nor a pydantic model"):
            Codec(kind, what="a result")


SHAPES = {
    "long text": "ä" * 3_000_000,
    "long bytes": b"\0\xff" * 2_000_000,
    "many": list(range(100_000)),
    "many names": {f"name {number}": [number, None, True, 1.5] for number in range(70_000)},
    "names of other kinds": {1: "x" * 300_000, None: 2, (1, "a"): ["y" * 300_000]},
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_large_values_come_back(value):
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\xc1" + data])
@pytest.mark.parametrize("value", ["x" * 300_000, b"x" * 300_000, ["x" * 100_000] * 4, {"a": "x" * 300_000}, 5])
def test_other_bytes_are_refused(value, spoil):
    with pytest.raises(CheckpointMismatchError):
        codec.decode(spoil(codec.encode(value)))


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
        "status": "running", "pause": None, "created_at": 1.5, "version": 2,
    }  # fmt: skip
    return sealed(Checkpoint(**{**fields, **changes}))


def test_the_digest_depends_on_every_field():
    changes = [
        {"run_id": "q"}, {"graph": "h"}, {"step": 2}, {"node": "x"}, {"next_node": "x"}, {"iterations": 2}, {"state": b"t"},
        {"status": "failed"}, {"pause": b"s"}, {"pause": b""}, {"created_at": 2.5}, {"version": 3}, {"kind": "chain"}, {"forked_from": "q"}, {"forked_from": ""}, {"node": "ab", "next_node": ""},
    ]  # fmt: skip
    digests = {digest_of(make(**change)) for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1
    assert {len(digest) for digest in digests} == {64}


def test_a_checkpoint_must_be_the_one_that_was_asked_for():
    assert verified(make(), "r", 1) == verified(make(), "r", None) == make()
    for run_id, step in (("q", None), ("r", 2)):
        with pytest.raises(CheckpointCorruptError):
            verified(make(), run_id, step)


def test_a_checkpoint_of_the_form_before_has_the_digest_of_before():
    # As the released version made it.
    old = Checkpoint(
        run_id="r", graph="g", step=1, node="a", next_node="b", iterations=1, state=b"s", status="running", pause=None,
        created_at=1.5, version=1, digest="7fb1cbd998f84a4d3fe2eeae71b5a85aba6767ad1895d9975d7ef92d45e528ae",
    )  # fmt: skip
    assert verified(old, "r", 1) is old


def test_fingerprints_tell_items_apart():
    assert fingerprint({"a": 1}) == fingerprint({"a": 1})
    items = (1, "1", b"1", [1], None, 1.5, {"a": 1}, {"b": 1}, {"a": 2}, {1: 1}, {1: 2}, Typed(), Typed(score=1.5))
    assert len({fingerprint(item) for item in items}) == len(items)
    with pytest.raises(CheckpointEncodeError, match="give key="):
        fingerprint(object())
    with pytest.raises(CheckpointEncodeError, match="give key="):
        fingerprint(holding_itself())


def test_fingerprints_do_not_depend_on_the_order_of_dicts():
    one = {"b": 1, "a": {2: [1], "x": 3}}
    other = {"a": {"x": 3, 2: [1]}, "b": 1}
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint([Typed(anything=one)]) == fingerprint([Typed(anything=other)])


PRINT = """
from trioflow.checkpoint.codec import fingerprint
words = {f"word {n}" for n in range(50)}
print(fingerprint({"words": words, "sets": {frozenset({w, "x"}) for w in words}, "mixed": {1, "a", None, 2.5}}).hex())
"""


def test_fingerprints_do_not_depend_on_the_process():
    found = set()
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PRINT], capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_a_mark_of_an_earlier_version_is_known():
    item = {"b": 1, "a": 2}
    old = hashlib.blake2b(msgspec.msgpack.encode(item), digest_size=16).digest()
    assert old != fingerprint(item)
    assert is_marked(item, old)
    assert is_marked(item, fingerprint(item))
    assert not is_marked({"b": 1, "a": 3}, old)
    assert not is_marked(1, b"")


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ({"a": 1}, False), ("x" * 1_000_000, False), ({"a": "x" * 3_000_000}, True), ([["x" * 1_100_000] * 2], True),
        (list(range(10_000)), True), ({"a": {"b": b"x" * 3_000_000}}, True), ([{}] * 100, False), (holding_itself(), True),
    ],
)  # fmt: skip
def test_large_values_are_told_from_small_ones(value, large):
    assert is_large(value) is large
