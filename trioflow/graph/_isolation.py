"""A copy of what a state is made of, so that a call that changes its state and then fails changes nothing.

Data is copied: lists, dicts, sets, byte arrays, deques, dataclasses, msgspec structs, and what registers here; and
only where something in it could be changed. What else a state may hold, such as a client or a lock, is no data and
stays the same object: that is why this is not `copy.deepcopy`, which copies or refuses those. See
`docs/design/graph.md`.
"""

import copy
import dataclasses
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec
import trio

__all__ = ("is_atom", "isolate", "isolate_all", "isolate_soon", "register")

MOST_COPIES = 4_000
"""Lists, dicts and the like that are copied in the event loop; some milliseconds' work."""

V = TypeVar("V")
Copier = Callable[[Any, dict[int, Any]], Any]

_ATOMS: frozenset[type] = frozenset(
    {int, str, float, bool, type(None), bytes, complex, range, type, date, datetime, time, timedelta}
    | {Decimal, Fraction, UUID, type(...)}
)


def isolate(value: V) -> V:
    """Return `value`, or a copy of it that shares nothing changeable with it except what is no data.

    Data nested too deeply to be walked is shared whole.
    """
    if type(value) in _ATOMS:
        return value
    try:
        copied: V = _copied(value, {})
    except RecursionError:
        return value
    return copied


async def isolate_soon(value: V) -> V:
    """Do what `isolate` does, in a thread where much is to be copied.

    Cancellation: a checkpoint only where a thread is needed.
    """
    if type(value) in _ATOMS:
        return value
    try:
        copied: V = _copied(value, _FewCopies())
    except RecursionError:
        return value
    except _ManyCopiesError:
        return await trio.to_thread.run_sync(isolate, value)
    return copied


class _ManyCopiesError(Exception):
    """There is more to copy than the loop should wait for."""


class _FewCopies(dict[int, Any]):
    def __setitem__(self, key: int, copied: Any) -> None:
        super().__setitem__(key, copied)
        if len(self) > MOST_COPIES:
            raise _ManyCopiesError


def is_atom(value: object) -> bool:
    """Whether `value` is of a kind that cannot be changed, nor hold what can."""
    return type(value) in _ATOMS


def isolate_all(values: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
    """Return `values` with each value isolated: the same dict where none needs to be."""
    changed = {}
    for name, value in values.items():
        if type(value) not in _ATOMS and (copied := _copied(value, memo)) is not value:
            changed[name] = copied
    return {**values, **changed} if changed else values


def register(kind: type[V], copier: Callable[[V, dict[int, Any]], V]) -> None:
    """Make `copier` the one for exactly `kind`: it returns a copy, or the same where nothing could be changed."""
    _known[kind] = copier


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    copier = _known.get(kind) or _found.get(kind)
    if copier is None:
        copier = _found[kind] = _copier_of(kind)
    if copier is _share:
        return value
    found = memo.get(id(value))
    if found is None:
        found = copier(value, memo)
        memo[id(value)] = found
    return found


def _copier_of(kind: type) -> Copier:
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]  # set by the decorator
        return _copier_of_fields(names, object.__setattr__, frozen=frozen)
    if issubclass(kind, msgspec.Struct):
        frozen = kind.__struct_config__.frozen
        return _copier_of_fields(list(kind.__struct_fields__), msgspec.structs.force_setattr, frozen=frozen)
    for base, copier in _BASES.items():
        if issubclass(kind, base):
            return copier
    return _share


def _copier_of_fields(names: list[str], assign: Callable[[Any, str, Any], None], *, frozen: bool) -> Copier:
    def copy_fields(value: Any, memo: dict[int, Any]) -> Any:
        twin = value
        if not frozen:
            memo[id(value)] = twin = copy.copy(value)
        held = {name: getattr(value, name) for name in names if hasattr(value, name)}
        fresh = isolate_all(held, memo)
        if frozen and fresh is not held:
            twin = copy.copy(value)
        for name, copied in fresh.items():
            if copied is not held[name]:
                assign(twin, name, copied)
        return twin

    return copy_fields


def _copy_list(value: Any, memo: dict[int, Any]) -> Any:
    memo[id(value)] = twin = copy.copy(value)
    if not _ATOMS.issuperset(map(type, value)):
        for position, member in enumerate(value):
            twin[position] = _copied(member, memo)
    return twin


def _copy_dict(value: Any, memo: dict[int, Any]) -> Any:
    memo[id(value)] = twin = copy.copy(value)
    for name, member in value.items():
        if type(member) not in _ATOMS:
            twin[name] = _copied(member, memo)
    return twin


def _copy_flat(value: Any, memo: dict[int, Any]) -> Any:
    del memo
    return copy.copy(value)


def _copy_tuple(value: Any, memo: dict[int, Any]) -> Any:
    if _ATOMS.issuperset(map(type, value)):
        return value
    members = [_copied(member, memo) for member in value]
    if all(a is b for a, b in zip(members, value, strict=True)):
        return value
    if type(value) is tuple:
        return tuple(members)
    make = getattr(type(value), "_make", None)
    return value if make is None else make(members)


def _share(value: Any, memo: dict[int, Any]) -> Any:
    del memo
    return value


# What is in a set or a key of a dict can be hashed, and is left as it is.
_known: dict[type, Copier] = {
    list: _copy_list,
    deque: _copy_list,
    dict: _copy_dict,
    tuple: _copy_tuple,
    set: _copy_flat,
    bytearray: _copy_flat,
}
_BASES = _known.copy()
_found: WeakKeyDictionary[type, Copier] = WeakKeyDictionary()
