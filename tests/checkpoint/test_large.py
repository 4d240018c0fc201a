"""Large values go to bytes and back in pieces: the bytes are msgspec's, and what is not exact is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioflow import CheckpointEncodeError, CheckpointMismatchError, State
from trioflow.checkpoint import large
from trioflow.graph.state import state_codec

SHAPES = {
    "long text": "ä" * 3_000_000,
    "text whose pieces differ": "a" * large.PIECE + "ä" * large.PIECE + "\U0001f600" * large.PIECE + "b",
    "long bytes": b"\0\xff" * 2_000_000,
    "many": list(range(100_000)),
    "many names": {f"name {number}": [number, None, True, 1.5] for number in range(70_000)},
    "a few long ones": ["x" * 700_000, {"k": b"y" * 1_200_000}, [["z" * 400_000] * 3]],
    "names of other kinds": {1: "x" * 300_000, None: 2, (1, "a"): ["y" * 300_000]},
    "nested": {"a": {"b": {"c": ["d" * 2_000_000, {}], "e": []}}},
    "fifteen and sixteen": [["x" * 20_000] * 15, ["x" * 20_000] * 16, {str(n): "x" * 20_000 for n in range(16)}],
}
PARTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner),
    max_leaves=30,
)


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_the_bytes_are_those_of_msgspec(value):
    data = large.encode_in_parts(value)
    assert data == msgspec.msgpack.encode(value)
    assert large.decode_in_parts(data) == value


@given(PARTS)
def test_any_plain_data_comes_back(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", 40)
        patch.setattr(large, "PIECE", 3)
        patch.setattr(large, "_BATCH", 2)
        patch.setattr(large, "_MAPPED", 5)
        data = large.encode_in_parts(value)
        assert data is not None
        assert msgspec.msgpack.decode(data) == value
        assert large.decode_in_parts(msgspec.msgpack.encode(value)) == value


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (float("nan"), r"the float at \['a'\]\[\d+\]: it would not come back equal"),
        ({1, 2}, r"the set at \['a'\]\[\d+\]: it would not come back equal"),
        ((1, 2), r"the tuple at \['a'\]\[\d+\]: it would not come back equal"),
        ("x" * 2_000_000 + "\ud800", r"the str at \['a'\]\[\d+\]: .*surrogates not allowed"),
        (object(), r"the object at \['a'\]\[\d+\]: .*unsupported"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_is_refused_with_its_place(part, why):
    codec = state_codec(State)
    for at in (0, 20_000):
        members = ["x" * 20 for _ in range(20_000)]
        members.insert(at, part)
        with pytest.raises(CheckpointEncodeError, match=why):
            codec.encode_large({"a": members})


def test_a_large_value_that_holds_itself_is_refused():
    value = [1.5] * 5_000
    value.append(value)
    with pytest.raises(CheckpointEncodeError):
        state_codec(State).encode_large({"a": value})


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\xc1" + data])
@pytest.mark.parametrize("value", ["x" * 300_000, b"x" * 300_000, ["x" * 100_000] * 4, {"a": "x" * 300_000}])
def test_other_bytes_are_refused(value, spoil):
    data = spoil(msgspec.msgpack.encode(value))
    with pytest.raises(CheckpointMismatchError):
        state_codec(State).decode(data)
