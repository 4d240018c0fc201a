"""Values that change while a run works: trio-util's `AsyncValue` behind our typed protocol.

A change of an `AsyncValue` costs time even when nobody waits, so one is made when the first task listens; until
then the value is computed when it is asked for.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Self, TypeVar, final

__all__ = ("Live",)

V = TypeVar("V")

_NOTHING = object()


def _any_value(_: object) -> bool:
    return True


@final
class Live(Generic[V]):
    """A `LiveValue` of what `compute` returns; `publish` wakes those who wait for it."""

    __slots__ = ("_compute", "_shared", "listened")

    def __init__(self, compute: Callable[[], V]) -> None:
        self._compute = compute
        self._shared: Any = None
        self.listened = False

    def __repr__(self) -> str:
        return f"<Live {self.value!r}>"

    @property
    def value(self) -> V:
        """The value now."""
        return self._compute()

    def publish(self) -> None:
        """Tell those who listen that the value has changed; needed only once `listened` is true."""
        self._shared.value = self._compute()

    async def wait_value(self, value_or_predicate: object, *, held_for: float = 0) -> V:
        """Wait until the value equals or satisfies `value_or_predicate`; see `LiveValue`."""
        return await self._listen().wait_value(value_or_predicate, held_for=held_for)  # type: ignore[no-any-return]

    def eventual_values(
        self, value_or_predicate: object = _any_value, held_for: float = 0
    ) -> AsyncIterator[V]:
        """Iterate over the value now and later ones that match; see `LiveValue`."""
        return _EventualValues(self, value_or_predicate, held_for)

    def _listen(self) -> Any:
        if self._shared is None:
            from trio_util import AsyncValue  # noqa: PLC0415 - loaded by those who listen

            self._shared = AsyncValue(self._compute())
            self.listened = True
        return self._shared


@final
class _EventualValues(Generic[V]):
    """The iterator of `Live.eventual_values`: an object, for trio-util's own is a generator to be closed."""

    __slots__ = ("_held_for", "_last", "_live", "_matches")

    def __init__(self, live: Live[V], value_or_predicate: Any, held_for: float) -> None:
        self._live = live
        self._held_for = held_for
        self._last: object = _NOTHING
        self._matches: Callable[[V], object] = (
            value_or_predicate
            if callable(value_or_predicate)
            else lambda value: value == value_or_predicate
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> V:
        self._last = value = await self._live.wait_value(self._is_next, held_for=self._held_for)
        return value

    def _is_next(self, value: V) -> bool:
        return bool(value != self._last and self._matches(value))
