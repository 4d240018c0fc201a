"""`State`: an immutable mapping for loose data, where a type of one's own would be too much.

A change copies the mapping and shares the values. At the sizes that states have that costs less than a
microsecond; `docs/design/graph.md` has the figures, beside those of persistent maps.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from trioflow.graph._isolation import is_atom, isolate_all, register

__all__ = ("State",)

_MISSING = object()


class State(Mapping[str, Any]):
    """An immutable mapping of names to values; every change returns a new one.

    ::

        state = State(topic="trio", drafts=0)
        state.set("drafts", state["drafts"] + 1)

    Two states are equal where their names and values are. What did not change is shared between the old state
    and the new one, not copied; so values should be left as they are, and replaced.

    Args:
        mapping: names and values to begin with.
        values: more of them; they win.

    Raises:
        TypeError: a name is not a string.
    """

    __slots__ = ("_plain", "_values")

    _values: dict[str, Any]
    _plain: bool
    """Whether it is known that no value could be changed."""

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

    __hash__ = None  # type: ignore[assignment]  # values may be changed behind its back, and most cannot be hashed

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, or `default` where there is none."""
        return self._values.get(name, default)

    def set(self, name: str, value: Any) -> Self:
        """Return a state in which `name` has `value`."""
        _check_name(name)
        if self._values.get(name, _MISSING) is value:
            return self
        values = self._values.copy()
        values[name] = value
        return self._of(values, plain=self._plain and is_atom(value))

    def merge(self, mapping: Mapping[str, Any] | None = None, /, **values: Any) -> Self:
        """Return a state with these names and values beside its own; they win."""
        return self._of({**self._values, **State(mapping, **values)})

    def without(self, *names: str) -> Self:
        """Return a state without `names`; those it does not have make no difference."""
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
        values = isolate_all(self._values, memo)
        self._plain = values is self._values
        return self if self._plain else self._of(values)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the names in a State are strings, got {name!r}")


register(State, State._isolated)  # noqa: SLF001 - its own
