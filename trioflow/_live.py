"""Values that change while a run works: trio-util's `AsyncValue` behind our typed protocol.

A change of an `AsyncValue` costs time even when nobody waits, so one is made when the first task waits; until
then the value is computed when it is asked for.
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
    """A `LiveValue` of what `compute` returns; `publish` wakes those who wait for it."""

    __slots__ = ("_compute", "_shared", "ended")

    def __init__(self, compute: Callable[[], V]) -> None:
        self._compute = compute
        # Holds pairs of the value and whether it is the last, so that the end is a change like any other.
        self._shared: Any = None
        self.ended: bool = False

    def __repr__(self) -> str:
        return f"<Live {self.value!r}>"

    @property
    def value(self) -> V:
        """The value now."""
        return self._compute()

    def publish(self) -> None:
        """Wake those who wait, if any: the value has changed."""
        if self._shared is not None:
            self._shared.value = (self._compute(), self.ended)

    def end(self) -> None:
        """Wake those who wait, if any: the value does not change any more."""
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
        """Iterate over the value now and later ones that match; see `LiveValue`."""
        return _EventualValues(self._published(), _matcher(value_or_predicate), held_for)

    def _published(self) -> Any:
        if self._shared is None:
            from trio_util import AsyncValue  # noqa: PLC0415 - loaded by those who wait

            self._shared = AsyncValue((self._compute(), self.ended))
        return self._shared


@final
class _EventualValues(Generic[V]):
    """The iterator of `Live.eventual_values`: an object, for trio-util's own is a generator to be closed."""

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
        """Do nothing: there is nothing to close; for `contextlib.aclosing`.

        Cancellation: a checkpoint.
        """
        await trio.lowlevel.checkpoint()

    def _is_next(self, value: V) -> bool:
        return bool(value != self._last and self._matches(value))


@final
class _Predicate:
    """A user's predicate: called by whoever changes the value, it raises in whoever waits for it."""

    __slots__ = ("_error", "_matches")

    def __init__(self, matches: Callable[[Any], object]) -> None:
        self._matches = matches
        self._error: Exception | None = None

    def __call__(self, pair: object) -> object:
        try:
            return self._matches(pair)
        except Exception as error:  # noqa: BLE001 - raised by `check`, in the task that it belongs to
            self._error = error
        return True

    def check(self) -> None:
        """Raise what the predicate has raised."""
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
