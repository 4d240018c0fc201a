"""Pydantic models in what is kept: they come back as they were, or are refused."""

import dataclasses
import datetime as dt
import enum
import subprocess
import sys
import threading
from typing import Annotated, Any, Literal

import msgspec
import pytest

from trioflow import Checkpoint, CheckpointEncodeError, CheckpointMismatchError, ConfigError
from trioflow.checkpoint.codec import Codec, fingerprint, is_typed

pydantic = pytest.importorskip("pydantic")


class Colour(enum.Enum):
    RED = "red"


class Inner(pydantic.BaseModel):
    names: set[str] = pydantic.Field(default_factory=set)
    when: dt.datetime | None = None
    raw: bytes = b""


class Outer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    inner: Inner = pydantic.Field(default_factory=Inner)
    pair: tuple[int, Colour] = (1, Colour.RED)
    score: float = 0.5
    by: dict[int, list[Inner]] = pydantic.Field(default_factory=dict)


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    pair: tuple[int, ...] = ()
    url: pydantic.AnyUrl = pydantic.AnyUrl("http://a/")

    @pydantic.computed_field
    @property
    def length(self) -> int:
        return len(self.pair)


class Renamed(pydantic.BaseModel):
    first: int = pydantic.Field(alias="firstName")
    second: int = pydantic.Field(default=0, validation_alias="a", serialization_alias="b")
    model_config = pydantic.ConfigDict(populate_by_name=True)


class Root(pydantic.RootModel[list[str]]):
    pass


class Private(pydantic.BaseModel):
    x: int = 1
    _token: str = pydantic.PrivateAttr(default="")


class Lossy(pydantic.BaseModel):
    x: int
    y: Any = None

    @pydantic.field_serializer("x")
    def halve(self, x: int) -> int:
        return x // 2


NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
INNER = Inner(names={"a", "b"}, when=NOW, raw=b"\xff\0")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Inner, INNER), (Outer, Outer(inner=INNER, by={3: [INNER]}, more={"x": [1]})), (Strict, Strict(pair=(1, 2))),
        (Renamed, Renamed(firstName=5, a=7)), (Root, Root(["a"])), (list[Inner], [INNER, Inner()]), (dict[str, Inner | None], {"a": INNER, "b": None}),
        (Private, Private()), (tuple[Outer, int], (Outer(), 1)),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_models_come_back_as_they_were(kind, value):
    codec = Codec(kind)
    back = codec.decode(codec.encode(value))
    assert type(back) is type(value)
    assert back == value


def test_a_model_remembers_which_fields_were_set():
    codec = Codec(Outer)
    assert codec.decode(codec.encode(Outer(score=1.5))).model_fields_set == {"score"}


def test_a_default_that_was_changed_in_place_comes_back():
    value = Outer()
    value.inner.names.add("new")
    codec = Codec(Outer)
    assert codec.decode(codec.encode(value)) == value


def private():
    value = Private()
    value._token = "secret"
    return value


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Lossy, Lossy(x=3), "the Lossy: its model_dump"), (list[Inner], [Inner.model_construct(names=["a"])], r"the Inner at \[0\]"),
        (Private, private(), "the Private"), (Inner, Outer(), "the Outer"), (Outer, Outer(score=float("nan")), r"the float at \['score'\]"),
        (Any, INNER, "the Inner: .*give state_type=, or convert it to plain data .*model_dump"), (Any, {"a": [INNER]}, r"the Inner at \['a'\]\[0\]"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_models_that_would_come_back_otherwise_are_refused(kind, value, message):
    with pytest.raises(CheckpointEncodeError, match=message):
        Codec(kind).encode(value)


class Cat(pydantic.BaseModel):
    type: Literal["cat"] = "cat"
    age: int = 0


class Dog(pydantic.BaseModel):
    type: Literal["dog"] = "dog"
    age: int = 0
    seen: set[dt.datetime] = pydantic.Field(default_factory=set)


PET = Annotated[Cat | Dog, pydantic.Field(discriminator="type")]


@dataclasses.dataclass
class Home:
    pets: list[Cat | Dog]
    next: "Home | None" = None
    names: set[str] = dataclasses.field(default_factory=set)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Home, Home([Dog(), Cat()], Home([], names={"a"}))), (list[Home], [Home([Dog()])]), (Home | None, None), (Cat | Dog, Dog()), (Cat | Dog, Cat(age=1)), (PET, Dog(seen={NOW})), (list[Cat | Dog], [Dog(age=1), Cat(), Dog()]), (Cat | str, "tom"), (Cat | str, Cat()),
        (dict[str, Cat | Dog | None], {"a": Dog(), "b": None}), (tuple[Cat | Dog, ...], (Cat(), Dog())), (Inner | bytes, b"\xff"), (Inner | bytes, INNER),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_models_of_a_union_come_back_as_the_one_they_were(kind, value):
    codec = Codec(kind)
    back = codec.decode(codec.encode(value))
    assert back == value
    assert type(back) is type(value)


def test_what_is_none_of_a_union_is_refused():
    codec = Codec(list[Cat | Dog], what="a result")
    with pytest.raises(CheckpointEncodeError, match="a result cannot be saved: the list"):
        codec.encode([Cat(), INNER])
    with pytest.raises(CheckpointEncodeError, match=r"the Dog at \[0\]"):
        codec.encode([Dog.model_construct(age="old")])
    with pytest.raises(CheckpointMismatchError, match="is of another type"):
        codec.decode(Codec(Any).encode([{"type": "fish"}]))


@dataclasses.dataclass
class Unknown:
    pets: "list[Cat | Missing]"  # noqa: F821 - there is none


class Crate(msgspec.Struct):
    pets: list[Cat | Dog]


def test_a_union_of_what_neither_knows_is_refused():
    with pytest.raises(ConfigError, match="result_type must be a type that can be decoded"):
        Codec(Cat | type(threading.Lock()), what="a result")
    for kind in (set[int] | list[int], Unknown, Crate):
        with pytest.raises(ConfigError, match="result_type must be a type that can be decoded"):
            Codec(kind, what="a result")


class Stubborn(pydantic.BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def look_up(cls, x: int) -> int:
        return {1: 1}[x]


def test_a_validator_that_raises_refuses():
    codec = Codec(Stubborn)
    assert codec.decode(codec.encode(Stubborn(x=1))) == Stubborn(x=1)
    with pytest.raises(CheckpointEncodeError, match="the Stubborn: its model_dump"):
        codec.encode(Stubborn.model_construct(x=2))
    with pytest.raises(CheckpointMismatchError, match="is of another type"):
        codec.decode(Codec(Any).encode({"x": 2}))
    with pytest.raises(CheckpointEncodeError, match="the Stubborn"):
        Codec(pydantic.BaseModel).encode(Stubborn(x=1))


def test_data_that_is_no_model_any_more_is_refused():
    with pytest.raises(CheckpointMismatchError, match="is of another type"):
        Codec(Inner).decode(Codec(Any).encode({"names": 5}))


def test_models_have_fingerprints():
    assert fingerprint(INNER) == fingerprint(Inner(raw=b"\xff\0", when=NOW, names={"b", "a"}))
    assert fingerprint([INNER]) != fingerprint([Inner()])


def test_types_that_come_back_are_known():
    assert is_typed(Inner)
    assert is_typed(Checkpoint)
    assert not is_typed(dict)


def test_pydantic_is_not_imported():
    code = "import sys, trioflow.checkpoint.codec, trioflow.checkpoint.session; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What the SDKs of agent programs return, as it is.

COMPLETION = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m", "unknown": "new",
    "choices": [{
        "index": 0, "finish_reason": "tool_calls", "logprobs": None,
        "message": {
            "role": "assistant", "content": None, "refusal": None, "extra": {"a": [1]},
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
    }],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}  # fmt: skip
MESSAGE = {
    "id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn", "stop_sequence": None,
    "content": [{"type": "text", "text": "hi", "citations": None}, {"type": "tool_use", "id": "t", "name": "n", "input": {"q": [1]}}],
    "usage": {"input_tokens": 1, "output_tokens": 2},
}  # fmt: skip


def come_back(value):
    for kind, kept in ((type(value), value), (list[type(value)], [value, value])):
        codec = Codec(kind)
        assert codec.decode(codec.encode(kept)) == kept
    assert fingerprint(value) == fingerprint(value.model_copy(deep=True))


def test_completions_of_openai_come_back():
    chat = pytest.importorskip("openai.types.chat")
    models = pytest.importorskip("openai._models")
    come_back(chat.ChatCompletion.model_validate(COMPLETION))
    # As the client makes them, without validation.
    come_back(models.construct_type(value=COMPLETION, type_=chat.ChatCompletion))


def test_messages_of_anthropic_come_back():
    come_back(pytest.importorskip("anthropic.types").Message.model_validate(MESSAGE))


def test_tool_results_of_mcp_come_back():
    types = pytest.importorskip("mcp.types")
    text = types.TextContent(type="text", text="x")
    come_back(types.CallToolResult(content=[text], structuredContent={"a": [1]}))
    come_back(types.CallToolResult(content=[text]))
