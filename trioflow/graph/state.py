"""States: `State`, an immutable mapping for loosely typed data, and the isolation of a node's input state.

A change of a `State` copies the mapping and shares the values, which at the usual sizes costs less than a
microsecond; `docs/design/graph.md` compares it with persistent maps.

A node gets a copy of what is mutable in its state, so that a node that mutates it and then fails changes nothing.
Data is copied: lists, dicts, sets, byte arrays, deques, dataclasses, msgspec structs, pydantic models, and `State`
itself; and only if something in it is mutable. Other objects, such as a client or a lock, are shared: therefore
this is not `copy.deepcopy`, which copies them or raises.
"""

import copy
import dataclasses
import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import Any, Self, TypeVar, cast
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec
import trio

from trioflow._runtime.calls import call_plain
from trioflow.checkpoint._exact import is_model
from trioflow.checkpoint.codec import Codec

__all__ = (
    "MISSING",
    "State",
    "changed_names",
    "changes_between",
    "field_names",
    "fields_of",
    "is_state_type",
    "isolate",
    "isolate_soon",
    "rebased",
    "state_codec",
    "with_changes",
)

S = TypeVar("S")
V = TypeVar("V")
Copier = Callable[[Any, dict[int, Any]], Any]

MISSING: Any = object()
"""Stands for a missing value."""

_MOST_COPIES = 4_000
"""The most containers that are copied in the event loop, which takes a few milliseconds."""

_ATOMS: frozenset[type] = frozenset(
    {int, str, float, bool, type(None), bytes, complex, range, type, date, datetime, time, timedelta}
    | {Decimal, Fraction, UUID, type(...)}
)


class State(Mapping[str, Any]):
    """An immutable mapping of names to values; every change returns a new one.

    ::

        state = State(topic="trio", drafts=0)
        state.set("drafts", state["drafts"] + 1)

    Two states are equal if their names and values are. Unchanged values are shared between the old state and the
    new one, not copied; so replace values, do not mutate them.

    Args:
        mapping: names and values to start with.
        values: further ones, which take precedence.

    Raises:
        TypeError: a name is not a string.
    """

    __slots__ = ("_plain", "_values")

    _values: dict[str, Any]
    _plain: bool
    """Whether all values are known to be immutable."""

    def __init__(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        merged = {**mapping, **values} if mapping else values
        for name in merged:
            _check_name(name)
        self._values = merged
        self._plain = False

    def __repr__(self) -> str:
        return f"State({self._values!r})"

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __eq__(self, other: object) -> bool:
        if isinstance(other, State):
            return self._values == other._values
        return self._values == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # values may be mutated, and most are not hashable

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, or `default` if there is none."""
        return self._values.get(name, default)

    def set(self, name: str, value: Any) -> Self:
        """Return a state with `name` set to `value`."""
        _check_name(name)
        if self._values.get(name, MISSING) is value:
            return self
        values = self._values.copy()
        values[name] = value
        return self._of(values, plain=self._plain and _is_atom(value))

    def merge(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> Self:
        """Return a state with these names and values added; they take precedence over its own."""
        return self._of({**self._values, **State(mapping, **values)})

    def without(self, *names: str) -> Self:
        """Return a state without `names`; missing ones are ignored."""
        gone = set(names)
        return self._of({name: value for name, value in self._values.items() if name not in gone})

    @classmethod
    def _of(cls, values: dict[str, Any], *, plain: bool = False) -> Self:
        self = cls.__new__(cls)
        self._values = values
        self._plain = plain
        return self

    def _isolated(self, memo: dict[int, Any]) -> "State":
        if self._plain:
            return self
        values = _isolate_all(self._values, memo)
        self._plain = values is self._values
        return self if self._plain else self._of(values)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the names in a State must be strings, got {name!r}")


def fields_of(state: object) -> Mapping[str, Any]:
    """Return the values of a state by name."""
    if isinstance(state, State):
        return state._values  # noqa: SLF001 - of this module
    if isinstance(state, Mapping):
        return state
    if is_model(type(state)):
        return {**vars(state), **(getattr(state, "__pydantic_extra__", None) or {})}
    if isinstance(state, msgspec.Struct):
        names = state.__struct_fields__
    else:
        names = tuple(field.name for field in dataclasses.fields(state))  # type: ignore[arg-type]  # the fourth kind
    return {name: getattr(state, name, None) for name in names}


def field_names(state_type: type) -> tuple[str, ...] | None:
    """Return the field names of a state type; None for a mapping, whose names are not fixed."""
    if issubclass(state_type, msgspec.Struct):
        return state_type.__struct_fields__
    if dataclasses.is_dataclass(state_type):
        return tuple(field.name for field in dataclasses.fields(state_type))
    if is_model(state_type) and getattr(state_type, "model_config", {}).get("extra") != "allow":
        return tuple(state_type.model_fields)  # type: ignore[attr-defined]  # every model has it
    return None


def is_state_type(state_type: object) -> bool:
    """Whether a graph can have states of this type."""
    return isinstance(state_type, type) and (
        issubclass(state_type, State | msgspec.Struct)
        or dataclasses.is_dataclass(state_type)
        or is_model(state_type)
    )


def changes_between(before: object, after: object) -> dict[str, Any]:
    """Return the changed values of `after`, by name; `MISSING` for removed ones.

    Values are compared by `==`; if that raises, they count as different.
    """
    old, new = fields_of(before), fields_of(after)
    removed = {name: MISSING for name in old if name not in new}
    return removed | {name: value for name, value in new.items() if _differ(old.get(name, MISSING), value)}


def with_changes(state: S, changes: Mapping[str, Any]) -> S:
    """Return a copy of `state` with these values, and without those that are `MISSING`."""
    if not changes:
        return state
    if isinstance(state, State):
        gone = [name for name, value in changes.items() if value is MISSING]
        return state.without(*gone).merge({n: v for n, v in changes.items() if v is not MISSING})
    if isinstance(state, msgspec.Struct):
        return msgspec.structs.replace(state, **changes)
    if is_model(type(state)):
        return cast("Any", state).model_copy(update={n: v for n, v in changes.items() if v is not MISSING})  # type: ignore[no-any-return]  # a state too
    twin = copy.copy(state)
    for name, value in changes.items():
        # Sets fields of a copy that nothing else refers to yet, even if the dataclass is frozen.
        object.__setattr__(twin, name, value)
    return twin


def rebased(state: S, before: S, after: S) -> S:
    """Return `state` with the changes between `before` and `after` applied."""
    return with_changes(state, changes_between(before, after))


def changed_names(before: object, after: object) -> dict[str, list[str]]:
    """Return the names whose values were set, changed and removed between two states."""
    old, new = fields_of(before), fields_of(after)
    changed = [name for name in new.keys() & old.keys() if _differ(old[name], new[name])]
    return {
        "set": sorted(new.keys() - old.keys()),
        "changed": sorted(changed),
        "removed": sorted(old.keys() - new.keys()),
    }


def _differ(old: object, new: object) -> bool:
    """Whether two values of a state differ, by `==`; if that raises, they do."""
    if old is new:
        return False
    with suppress(Exception):
        return bool(call_plain(operator.ne, old, new))
    return True


def state_codec(state_type: type[S]) -> Codec[S]:
    """Return the codec of a graph's states."""
    if issubclass(state_type, State):
        return Codec(state_type, wrap=state_type, unwrap=attrgetter("_values"))
    return Codec(state_type)


def isolate(value: V) -> V:
    """Return `value`, or a copy that shares no mutable data with it.

    Objects that are not data are shared, and so is data nested too deeply to be copied recursively.
    """
    if type(value) in _ATOMS:
        return value
    try:
        copied: V = _copied(value, {})
    except RecursionError:
        return value
    return copied


async def isolate_soon(value: V) -> V:
    """Do what `isolate` does, in a thread if there is much to copy.

    Cancellation: a checkpoint only if a thread is needed.
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
    """There is too much to copy in the event loop."""


class _FewCopies(dict[int, Any]):
    def __setitem__(self, key: int, copied: Any) -> None:
        super().__setitem__(key, copied)
        if len(self) > _MOST_COPIES:
            raise _ManyCopiesError


def _is_atom(value: object) -> bool:
    """Whether `value` is immutable and contains no other objects."""
    return type(value) in _ATOMS


def _isolate_all(values: dict[Any, Any], memo: dict[int, Any]) -> dict[Any, Any]:
    """Return `values` with each value isolated; the same dict if none has to be copied."""
    changed = {}
    for name, value in values.items():
        if type(value) not in _ATOMS and (copied := _copied(value, memo)) is not value:
            changed[name] = copied
    return {**values, **changed} if changed else values


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
    if is_model(kind):
        return _copy_model
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
        fresh = _isolate_all(held, memo)
        if frozen and fresh is not held:
            twin = copy.copy(value)
        for name, copied in fresh.items():
            if copied is not held[name]:
                assign(twin, name, copied)
        return twin

    return copy_fields


def _copy_model(value: Any, memo: dict[int, Any]) -> Any:
    # Its own __copy__ makes new dicts of its fields, extra fields and private attributes; their values are copied
    # here.
    memo[id(value)] = twin = copy.copy(value)
    for held in (vars(twin), twin.__pydantic_extra__, twin.__pydantic_private__):
        if held:
            held.update(_isolate_all(held, memo))
    return twin


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


# The elements of a set and the keys of a dict are hashable, and are shared.
_known: dict[type, Copier] = {
    list: _copy_list,
    deque: _copy_list,
    dict: _copy_dict,
    tuple: _copy_tuple,
    set: _copy_flat,
    bytearray: _copy_flat,
}
_BASES = _known.copy()
_known[State] = State._isolated  # noqa: SLF001 - its own
_found: WeakKeyDictionary[type, Copier] = WeakKeyDictionary()
