"""Encoding of pydantic models, which are recognised by their methods: pydantic is never imported.

A model is stored as the result of `model_dump`, as data for `model_validate`; or as JSON text if that does not
round-trip (strict models, and values that only JSON mode can represent). A type with models that msgspec cannot
distinguish, such as a union of two, is decoded by pydantic: a program with a model has imported it.

Models run the user's code. If it raises anything, that form does not work.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, get_args, get_type_hints

import msgspec

from trioflow._text import clip, describe_error, escape
from trioflow.checkpoint._exact import is_model, is_same

__all__ = ("adapt", "check_known", "dump", "load")

_AS_JSON = 1
"""The MessagePack extension type of a model's JSON text."""

_NIL: Final = msgspec.msgpack.encode(None)

_FORMS: Final[tuple[dict[str, bool], ...]] = (
    # Try set fields first, because which ones are set is part of a model; generated defaults do not round-trip so.
    {"by_alias": True, "exclude_unset": True},
    {"by_alias": True},
    {"by_alias": False},
)


def dump(value: Any) -> Any:
    """Encode a model to data.

    Raises:
        TypeError: `value` is not a model, or does not round-trip.
    """
    kind = type(value)
    if not is_model(kind):
        raise TypeError(f"Encoding objects of type {kind.__name__} is unsupported")
    as_data = (value.model_dump, kind.model_validate)
    as_json = (value.model_dump_json, kind.model_validate_json)
    return _dumped(value, as_data, as_json)


def check_known(kind: Any) -> None:
    """Refuse a type no value of which could be kept: msgspec takes it, and leaves reading it to `load`.

    Raises:
        TypeError: it is no model, and msgspec knows nothing of it.
    """
    left: list[Any] = []
    # Of `msgspec.inspect` the answer costs a hundred times as much.
    with suppress(msgspec.MsgspecError):
        msgspec.msgpack.Decoder(kind, dec_hook=lambda custom, _: left.append(custom)).decode(_NIL)
    for custom in left:
        if not is_model(custom):
            raise _unknown(custom)


def load(kind: Any, data: Any) -> Any:
    """Decode `data` to a model of this `kind`.

    Raises:
        TypeError: `kind` is not a model.
        ValueError: `data` is not valid for it.
    """
    if not is_model(kind):
        raise _unknown(kind)
    return _loaded(data, kind.model_validate, kind.model_validate_json)


def _unknown(kind: Any) -> TypeError:
    return TypeError(f"{getattr(kind, '__name__', kind)} is neither supported by msgspec nor a pydantic model")


def adapt(kind: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None:
    """Return an encoder and a decoder of a type with pydantic models; None if it has none."""
    make = getattr(sys.modules.get("pydantic"), "TypeAdapter", None)
    if make is None:
        return None
    try:
        if not _has_model(kind):
            return None
        adapter = make(kind)
    except Exception:  # noqa: BLE001 - pydantic does not support the type, which it reports in a dozen ways
        return None

    def encode(value: Any) -> bytes:
        as_data = (partial(adapter.dump_python, value), adapter.validate_python)
        as_json = (partial(adapter.dump_json, value), adapter.validate_json)
        return msgspec.msgpack.encode(_dumped(value, as_data, as_json))

    def decode(data: bytes) -> Any:
        return _loaded(msgspec.msgpack.decode(data), adapter.validate_python, adapter.validate_json)

    return encode, decode


def _has_model(kind: Any, around: tuple[Any, ...] = ()) -> bool:
    """Whether a type contains a model, also in the fields of a dataclass."""
    if is_model(kind):
        return True
    if any(kind is outer for outer in around):
        return False
    inner = get_args(kind)
    if hasattr(kind, "__dataclass_fields__"):
        inner = (*inner, *get_type_hints(kind).values())
    return any(_has_model(part, (*around, kind)) for part in inner)


_Way = tuple[Callable[..., Any], Callable[[Any], Any]]
"""A function that dumps a value, and one that loads it."""


def _dumped(value: Any, as_data: _Way, as_json: _Way) -> Any:
    failure: Exception | None = None
    for (write, read), pack in ((as_data, _same), (as_json, _packed)):
        for form in _FORMS:
            try:
                dumped = pack(write(round_trip=True, warnings=False, **form))
                back = msgspec.msgpack.decode(msgspec.msgpack.encode(dumped))
                if is_same(value, read(back.data if pack is _packed else back)):
                    return dumped
            except Exception as error:  # noqa: BLE001 - raised by the user's serializer or validator: not this form
                failure = failure or error
    raise TypeError("its model_dump() does not decode to an equal value of the same type") from failure


def _loaded(data: Any, read: Callable[[Any], Any], read_json: Callable[[Any], Any]) -> Any:
    try:
        if isinstance(data, msgspec.msgpack.Ext) and data.code == _AS_JSON:
            return read_json(data.data)
        return read(data)
    except Exception as error:
        raise ValueError(clip(escape(describe_error(error)))) from error


def _same(dumped: Any) -> Any:
    return dumped


def _packed(text: str | bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_AS_JSON, text.encode() if isinstance(text, str) else text)
