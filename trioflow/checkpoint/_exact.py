"""Checks that values round-trip through MessagePack: plain data by its types, typed data by comparing all parts.

`==` is not enough: `True == 1`, an `IntEnum` equals its value and a `Counter` a dict, and dataclasses skip fields
with `compare=False`.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

__all__ = (
    "BREAKERS",
    "in_order",
    "is_model",
    "is_plain",
    "is_plain_name",
    "is_same",
    "named_parts",
    "parts",
)

BREAKERS: Final = (
    msgspec.MsgspecError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    AttributeError,
)
"""What msgspec, and code that it calls, raises for a value that cannot be encoded."""

DEEPEST: Final = 500
"""How deep data may be nested: it must be decodable from any stack depth."""

_ATOMS = frozenset({str, bytes, int, bool, type(None)})
"""The types whose values round-trip, and have no parts."""

_TEXT = frozenset({str})
_NOTHING: Any = object()


def is_plain(value: Any) -> bool:
    """Whether `value`, which msgspec encoded, round-trips without a type: JSON types, and bytes."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is not dict and kind is not list:
        return _is_plain_atom(value, kind)
    if kind is dict and _TEXT.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values())):
        return True  # as most states are
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = _inner(level)
        if not inner:
            return inner is not None
        level = inner
    return False


def _inner(level: list[Any]) -> list[Any] | None:
    """Return the lists and dicts inside those of `level`; None if one contains a value that is not plain."""
    inner: list[Any] = []
    for holder in level:
        members: Collection[Any] = holder
        if type(holder) is dict:
            members = holder.values()
            if not _TEXT.issuperset(map(type, holder)) and not all(map(is_plain_name, holder)):
                return None
        # Most contain only atoms, which is checked without a Python-level loop.
        if _ATOMS.issuperset(map(type, members)):
            continue
        for part in members:
            kind = type(part)
            if kind is dict or kind is list:
                inner.append(part)
            elif kind not in _ATOMS and not _is_plain_atom(part, kind):
                return None
    return inner


def _is_plain_atom(part: Any, kind: type) -> bool:
    if kind is float:
        return bool(part == part)  # noqa: PLR0124 - NaN is not equal to itself
    return kind is datetime and part.tzinfo is UTC


def is_plain_name(name: Any) -> bool:
    """Whether the key of a dict round-trips: as a key, msgspec decodes a list to a tuple."""
    kind = type(name)
    if kind is tuple:
        return all(map(is_plain_name, name))
    return kind in _ATOMS or _is_plain_atom(name, kind)


def is_same(value: Any, back: Any) -> bool:  # noqa: PLR0911 - one for each kind
    """Whether `back` equals `value` and is of the same type, recursively for all parts."""
    kind = type(value)
    if kind is not type(back):
        # A field annotated `float` accepts an int, as in type checkers: it decodes to the equal float.
        return kind is int and type(back) is float and value == back
    if kind in _ATOMS or kind is float:
        return bool(value == back)
    if kind is dict:
        return len(value) == len(back) and all(map(is_same, value, back)) and _are_same(value, back)
    if isinstance(value, list | tuple):
        return len(value) == len(back) and all(map(is_same, value, back))
    if isinstance(value, set | frozenset):
        found = {part: part for part in back}
        return value == back and all(is_same(part, found[part]) for part in value)
    names = _field_names(value)
    if names is not None:
        return all(is_same(getattr(value, n, _NOTHING), getattr(back, n, _NOTHING)) for n in names)
    return bool(value == back)


def _are_same(value: dict[Any, Any], back: dict[Any, Any]) -> bool:
    return all(map(is_same, value.values(), back.values()))


def _field_names(value: Any) -> Collection[str] | None:
    """Return the field names of a struct, dataclass or pydantic model; None for other values."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_model(type(value)):
        return (*type(value).model_fields, "__pydantic_extra__", "__pydantic_private__")
    return getattr(type(value), "__dataclass_fields__", None)


def parts(value: Any) -> Collection[Any]:
    """Return the parts of `value`, as far as it is data."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    return [getattr(value, name, None) for name in _field_names(value) or ()]


def named_parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the parts of `value`, each with its name or index."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    else:
        for name in _field_names(value) or ():
            if not name.startswith("__"):
                yield name, getattr(value, name, None)


def is_model(kind: Any) -> bool:
    """Whether `kind` is a pydantic model, recognised by its methods: pydantic is never imported."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_dump") and hasattr(kind, "model_fields")


_encode = msgspec.msgpack.Encoder().encode


def in_order(value: Any) -> Any:
    """Return data equivalent to `value`, with its sets and dicts sorted."""
    kind = type(value)
    if kind in _ATOMS or kind is float:
        return value
    if isinstance(value, dict):
        if _TEXT.issuperset(map(type, value)):
            return {name: in_order(value[name]) for name in sorted(value)}
        pairs = [[in_order(name), in_order(part)] for name, part in value.items()]
        return {"of other keys": sorted(pairs, key=_encode)}
    if isinstance(value, list | tuple):
        return [in_order(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(map(in_order, value), key=_encode)
    names = _field_names(value)
    return value if names is None else {name: in_order(getattr(value, name, None)) for name in names}
