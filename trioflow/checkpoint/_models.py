"""Pydantic models in what is kept, recognised by their methods: pydantic is never imported.

A model is kept as what `model_dump` makes of it, as data that `model_validate` takes; as JSON text where that does
not come back the same (strict models, and values that only JSON mode has a form for). A type with models in it
that msgspec cannot tell apart, such as a union of two, is pydantic's to read: who has a model has imported that.

Models run code of the user's. Whatever it raises says that there is no such form.
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
"""The MessagePack extension that stands for a model's JSON text."""

_NIL: Final = msgspec.msgpack.encode(None)

_FORMS: Final[tuple[dict[str, bool], ...]] = (
    # Which fields were set is a part of a model, so that comes first; defaults that are made anew are not.
    {"by_alias": True, "exclude_unset": True},
    {"by_alias": True},
    {"by_alias": False},
)


def dump(value: Any) -> Any:
    """Return data that stands for a model.

    Raises:
        TypeError: it is none, or does not come back as it is.
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
    """Return the model of this `kind` that `data` stands for.

    Raises:
        TypeError: `kind` is no model.
        ValueError: `data` is not of it.
    """
    if not is_model(kind):
        raise _unknown(kind)
    return _loaded(data, kind.model_validate, kind.model_validate_json)


def _unknown(kind: Any) -> TypeError:
    return TypeError(f"{getattr(kind, '__name__', kind)} is neither known to msgspec nor a pydantic model")


def adapt(kind: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None:
    """Return what encodes and decodes values of a type that pydantic can read; None where it has no models."""
    make = getattr(sys.modules.get("pydantic"), "TypeAdapter", None)
    if make is None:
        return None
    try:
        if not _has_model(kind):
            return None
        adapter = make(kind)
    except Exception:  # noqa: BLE001 - pydantic knows no such type: there are a dozen errors that say so
        return None

    def encode(value: Any) -> bytes:
        as_data = (partial(adapter.dump_python, value), adapter.validate_python)
        as_json = (partial(adapter.dump_json, value), adapter.validate_json)
        return msgspec.msgpack.encode(_dumped(value, as_data, as_json))

    def decode(data: bytes) -> Any:
        return _loaded(msgspec.msgpack.decode(data), adapter.validate_python, adapter.validate_json)

    return encode, decode


def _has_model(kind: Any, around: tuple[Any, ...] = ()) -> bool:
    """Whether a model is named in a type, or in the fields of a dataclass in it."""
    if is_model(kind):
        return True
    if any(kind is outer for outer in around):
        return False
    inner = get_args(kind)
    if hasattr(kind, "__dataclass_fields__"):
        inner = (*inner, *get_type_hints(kind).values())
    return any(_has_model(part, (*around, kind)) for part in inner)


_Way = tuple[Callable[..., Any], Callable[[Any], Any]]
"""What dumps the value, and what reads it again."""


def _dumped(value: Any, as_data: _Way, as_json: _Way) -> Any:
    failure: Exception | None = None
    for (write, read), pack in ((as_data, _same), (as_json, _packed)):
        for form in _FORMS:
            try:
                dumped = pack(write(round_trip=True, warnings=False, **form))
                back = msgspec.msgpack.decode(msgspec.msgpack.encode(dumped))
                if is_same(value, read(back.data if pack is _packed else back)):
                    return dumped
            except Exception as error:  # noqa: BLE001 - a serializer or validator of the user's: not this form
                failure = failure or error
    raise TypeError("what its model_dump() gives does not come back equal and of the same type") from failure


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
