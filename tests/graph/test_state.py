"""`State`: immutable, equal by value, and sharing what did not change."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import State

VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()))
MAPPINGS = st.dictionaries(st.text(), VALUES)


def test_a_state_is_a_mapping():
    state = State({"a": 1, "b": 2}, b=3)
    assert state["b"] == 3
    assert "a" in state
    assert "c" not in state
    assert list(state) == ["a", "b"]
    assert len(state) == 2
    assert dict(state) == {"a": 1, "b": 3}
    assert dict(**state) == {"a": 1, "b": 3}
    assert state.get("c") is None
    assert state.get("c", 5) == 5
    assert repr(state) == "State({'a': 1, 'b': 3})"
    with pytest.raises(KeyError):
        state["c"]


def test_names_may_be_those_of_the_methods_and_arguments():
    state = State(mapping=1, self=2, get=3)
    assert state.merge(mapping=4)["mapping"] == 4


def test_a_change_returns_another_state_and_leaves_this_one():
    state = State(a=1)
    assert state.set("b", 2) == State(a=1, b=2)
    assert state.merge({"a": 5}, c=3) == State(a=5, c=3)
    assert state.without("a", "z") == State()
    assert state == State(a=1)
    with pytest.raises(TypeError):
        state["a"] = 2
    with pytest.raises(AttributeError):
        state.a = 2


def test_what_did_not_change_is_shared():
    shared = object()
    state = State(a=shared, b=1)
    assert state.set("b", 2)["a"] is shared
    assert state.merge(b=2)["a"] is shared
    assert state.without("b")["a"] is shared
    assert state.set("a", shared) is state


def test_states_are_equal_by_value():
    assert State(a=[1]) == State({"a": [1]})
    assert State(a=1) != State(a=2)
    assert State(a=1) == {"a": 1}
    assert State(a=1) != 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(State())


@pytest.mark.parametrize("make", [lambda: State({1: 2}), lambda: State().set(1, 2), lambda: State().merge({1: 2})])
def test_names_are_strings(make):
    with pytest.raises(TypeError, match="names in a State must be strings, got 1"):
        make()


def test_the_mapping_that_it_was_made_of_can_change_behind_its_back_no_more():
    values = {"a": 1}
    state = State(values)
    values["a"] = 2
    assert state["a"] == 1


@given(MAPPINGS, st.text(), VALUES)
def test_set_and_without_do_what_a_dict_does(mapping, name, value):
    state = State(mapping)
    assert dict(state.set(name, value)) == {**mapping, name: value}
    assert list(state.set(name, value)) == list({**mapping, name: value})
    assert dict(state.without(name)) == {n: v for n, v in mapping.items() if n != name}
    assert dict(state) == mapping


@given(MAPPINGS, MAPPINGS)
def test_merge_does_what_a_dict_does(first, second):
    assert dict(State(first).merge(second)) == {**first, **second}


@given(MAPPINGS)
def test_states_copy_and_pickle(mapping):
    state = State(mapping)
    assert pickle.loads(pickle.dumps(state)) == copy.deepcopy(state) == copy.copy(state) == state


def test_a_kind_of_state_of_ones_own_stays_one():
    class Mine(State):
        __slots__ = ()

    assert type(Mine(a=1).set("b", 2)) is Mine
