"""Pydantic models in what is kept, recognised by their methods: pydantic is never imported.

A model is kept as what `model_dump` makes of it, as data that `model_validate` takes; as JSON text where that does
not come back the same (strict models, and values that only JSON mode has a form for).
"""

from contextlib import suppress
from typing import Any, Final

import msgspec

from trioflow.checkpoint._exact import BREAKERS, is_model, is_same

__all__ = ("dump", "load")

_AS_JSON = 1
"""The MessagePack extension that stands for a model's JSON text."""

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
    for form in _FORMS:
        with suppress(*BREAKERS):
            dumped = value.model_dump(round_trip=True, warnings=False, **form)
            read = msgspec.msgpack.decode(msgspec.msgpack.encode(dumped))
            if is_same(value, kind.model_validate(read)):
                return dumped
    for form in _FORMS:
        with suppress(*BREAKERS):
            text = value.model_dump_json(round_trip=True, warnings=False, **form)
            if is_same(value, kind.model_validate_json(text)):
                return msgspec.msgpack.Ext(_AS_JSON, text.encode())
    raise TypeError("what its model_dump() gives does not come back equal and of the same type")


def load(kind: Any, data: Any) -> Any:
    """Return the model of this `kind` that `data` stands for.

    Raises:
        TypeError: `kind` is no model.
        ValueError: `data` is not of it.
    """
    if not is_model(kind):
        raise TypeError(f"{kind.__name__} is neither known to msgspec nor a pydantic model")
    if isinstance(data, msgspec.msgpack.Ext) and data.code == _AS_JSON:
        return kind.model_validate_json(data.data)
    return kind.model_validate(data)
