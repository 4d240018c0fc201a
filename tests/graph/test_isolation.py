"""Isolation: a copy that shares nothing changeable, and leaves alone what is no data."""

import copy
import enum
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import State
from trioflow.graph.state import isolate

DATA = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text(), inner),
        st.builds(State, st.dictionaries(st.text(), inner)),
        st.builds(deque, st.lists(inner)),
        st.sets(st.integers()),
        st.builds(bytearray, st.binary()),
    ),
    max_leaves=20,
)


def spoil(value: Any) -> None:
    """Change everything in `value` that can be changed."""
    if isinstance(value, State | tuple):
        for member in value.values() if isinstance(value, State) else value:
            spoil(member)
    elif isinstance(value, dict):
        for member in value.values():
            spoil(member)
        value["spoilt"] = True
    elif isinstance(value, list | deque):
        for member in value:
            spoil(member)
        value.append("spoilt")
    elif isinstance(value, set):
        value.add("spoilt")
    elif isinstance(value, bytearray):
        value.extend(b"spoilt")


@given(DATA)
def test_a_copy_is_equal_and_independent(data):
    twin = isolate(data)
    assert twin == data
    before = copy.deepcopy(data)
    spoil(twin)
    assert data == before


@dataclass
class Loose:
    n: int = 0
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    n: int = 0
    words: Any = ()


class Struct(msgspec.Struct):
    n: int = 0
    words: list[str] = []


class FrozenStruct(msgspec.Struct, frozen=True):
    n: int = 0
    words: Any = ()


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.mark.parametrize("value", [Loose(1, ["a"]), Frozen(1, ["a"]), Struct(1, ["a"]), FrozenStruct(1, ["a"])])
def test_typed_states_are_copied_with_what_they_hold(value):
    twin = isolate(value)
    assert twin == value
    assert type(twin) is type(value)
    assert twin is not value
    assert twin.words is not value.words


@pytest.mark.parametrize(
    "value",
    [
        5, "a", (1, "a", (2,)), frozenset({1}), Frozen(1, ("a",)), FrozenStruct(1, ("a",)), Pair(1, 2),
        State(a=1, b="x"), enum.Enum("Colour", "RED")["RED"], int,
    ],
)  # fmt: skip
def test_what_cannot_be_changed_is_not_copied(value):
    assert isolate(value) is value


def test_what_is_no_data_is_shared():
    lock = threading.Lock()

    class Client:
        pass

    client = Client()
    state = isolate({"lock": lock, "client": client, "list": [client]})
    assert state["lock"] is lock
    assert state["list"][0] is client


def test_what_is_held_twice_is_held_twice_by_the_copy():
    inner = [1]
    twin = isolate({"a": inner, "b": inner})
    assert twin["a"] is twin["b"]
    assert twin["a"] is not inner


def test_what_holds_itself_does_so_in_the_copy():
    loop: list[Any] = [1]
    loop.append(loop)
    twin = isolate(loop)
    assert twin[1] is twin
    node = Loose()
    node.words.append(node)  # type: ignore[arg-type]
    other: Any = isolate(node)
    assert other.words[0] is other


def test_kinds_of_containers_stay_what_they_are():
    for value in (
        OrderedDict(a=[1]), defaultdict(list, a=[1]), Counter("aab"), deque([[1]], maxlen=3), Pair([1], 2),
    ):  # fmt: skip
        twin = isolate(value)
        assert twin == value
        assert type(twin) is type(value)
        assert twin is not value
    assert isolate(deque([1], maxlen=3)).maxlen == 3
    assert isolate(defaultdict(list))["new"] == []


def test_a_tuple_of_ones_own_that_cannot_be_rebuilt_is_shared():
    class Odd(tuple):
        __slots__ = ()

    odd = Odd(([1],))
    assert isolate(odd) is odd


def test_a_dataclass_that_lacks_a_field_is_copied():
    value = Loose(5)
    del value.words
    assert isolate(value).n == 5
    assert not hasattr(isolate(value), "words")


def test_data_that_is_nested_too_deeply_is_shared():
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert isolate(deep) is deep


def test_a_state_knows_that_nothing_in_it_can_be_changed():
    state = State(a=1)
    assert isolate(state) is state
    assert isolate(state.set("b", 2)) is not None
    changed = state.set("b", [1])
    assert isolate(changed)["b"] is not changed["b"]
    assert isolate(isolate(State(a=1)).set("b", [1])) is not None
    plain = isolate(State(a=1)) or None
    listed = plain.set("c", [])
    assert isolate(listed)["c"] is not listed["c"]
