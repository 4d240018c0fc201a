"""Values that change during a run: trio-util's `AsyncValue` behind a typed protocol.

Setting an `AsyncValue` costs time even if no task waits, so it is created when the first task waits; until then
the value is computed when it is read.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Self, TypeVar, cast, final

import trio

V = TypeVar("V")

_NOTHING = object()


def _any_value(_: object) -> bool:
    return True


@final
class Live(Generic[V]):
    """A `LiveValue` of what `compute` returns; `publish` wakes the waiting tasks."""

    __slots__ = ("_compute", "_shared", "ended")

    def __init__(self, compute: Callable[[], V]) -> None:
        self._compute = compute
        # Holds pairs of the value and whether it is final, so that the end is a change like any other.
        self._shared: Any = None
        self.ended: bool = False

    def __repr__(self) -> str:
        return f"<Live {self.value!r}>"

    @property
    def value(self) -> V:
        """The current value."""
        return self._compute()

    def publish(self) -> None:
        """Wake the waiting tasks: the value has changed."""
        if self._shared is not None:
            self._shared.value = (self._compute(), self.ended)

    def end(self) -> None:
        """Wake the waiting tasks: the value is final."""
        self.ended = True
        self.publish()

    async def wait_value(self, value_or_predicate: object, *, held_for: float = 0) -> V:
        """Wait until the value equals or satisfies `value_or_predicate`; see `LiveValue`."""
        matches = _matcher(value_or_predicate)
        predicate = _Predicate(lambda pair: matches(pair[0]))
        value, _ = await self._published().wait_value(predicate, held_for=held_for)
        predicate.check()
        return cast("V", value)

    def eventual_values(self, value_or_predicate: object = _any_value, held_for: float = 0) -> AsyncIterator[V]:
        """Iterate over the current value and later ones that match; see `LiveValue`."""
        return _EventualValues(self._published(), _matcher(value_or_predicate), held_for)

    def _published(self) -> Any:
        if self._shared is None:
            from trio_util import AsyncValue  # noqa: PLC0415 - only waiting needs it

            self._shared = AsyncValue((self._compute(), self.ended))
        return self._shared


@final
class _EventualValues(Generic[V]):
    """The iterator of `Live.eventual_values`; trio-util's own is a generator, which would have to be closed."""

    __slots__ = ("_held_for", "_last", "_matches", "_shared")

    def __init__(self, shared: Any, matches: Callable[[V], object], held_for: float) -> None:
        self._shared = shared
        self._matches = matches
        self._held_for = held_for
        self._last: object = _NOTHING

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> V:
        predicate = _Predicate(lambda pair: pair[1] or self._is_next(pair[0]))
        value, _ = await self._shared.wait_value(predicate, held_for=self._held_for)
        predicate.check()
        if not self._is_next(value):
            raise StopAsyncIteration
        self._last = value
        return cast("V", value)

    async def aclose(self) -> None:
        """Do nothing; for `contextlib.aclosing`.

        Cancellation: a checkpoint.
        """
        await trio.lowlevel.checkpoint()

    def _is_next(self, value: V) -> bool:
        return bool(value != self._last and self._matches(value))


@final
class _Predicate:
    """A user's predicate: called in the task that changes the value, it raises in the task that waits."""

    __slots__ = ("_error", "_matches")

    def __init__(self, matches: Callable[[Any], object]) -> None:
        self._matches = matches
        self._error: Exception | None = None

    def __call__(self, pair: object) -> object:
        try:
            return self._matches(pair)
        except Exception as error:  # noqa: BLE001 - raised by `check`, in the waiting task
            self._error = error
        return True

    def check(self) -> None:
        """Raise the predicate's exception, if any."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error


def _matcher(value_or_predicate: Any) -> Callable[[Any], object]:
    if callable(value_or_predicate):
        return value_or_predicate  # type: ignore[no-any-return]
    return lambda value: value == value_or_predicate
