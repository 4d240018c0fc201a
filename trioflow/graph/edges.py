"""Edges, and the predicates that say which one is taken.

A predicate is any plain function of the state. Those made here have names that can be read, in events and in the
picture of a graph.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from trioflow._runtime.calls import call_plain
from trioflow._text import clip, show
from trioflow.config.checks import check_callable, check_text, is_async
from trioflow.errors import ConfigError

__all__ = (
    "Edge",
    "ErrorEdge",
    "ErrorFilter",
    "Predicate",
    "all_of",
    "always",
    "any_of",
    "check_error_filter",
    "error_filter_name",
    "key_equals",
    "key_exists",
    "not_",
    "predicate_name",
    "truth",
)

S = TypeVar("S")

Predicate = Callable[[S], bool]
"""Whether an edge may be taken, given the state."""

ErrorFilter = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors an error edge is for: types, or a plain function that says yes or no."""

_MISSING = object()


class Edge(msgspec.Struct, Generic[S], frozen=True):
    """A way from one node to another."""

    source: str
    """The node it leaves."""
    target: str
    """The node it leads to."""
    when: Predicate[S]
    """Whether it may be taken."""
    name: str | None
    """What the predicate is called, where it has a name."""


class ErrorEdge(msgspec.Struct, Generic[S], frozen=True):
    """A way out of a node that failed."""

    source: str
    """The node it leaves."""
    target: str
    """The node it leads to."""
    on: ErrorFilter
    """Which errors it is for."""
    update: Callable[[S, Exception], S] | None
    """Makes the state to go on with of the one that the node was given and the error."""
    name: str
    """What events and the picture call it."""

    def fits(self, error: Exception) -> bool:
        """Whether it is for `error`.

        Raises:
            Exception: what a predicate raised, as it is.
        """
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        return truth(call_plain(self.on, error))


def check_error_filter(field: str, on: object) -> None:
    """Refuse what is neither types of `Exception` nor a plain function of one."""
    kinds = on if isinstance(on, tuple) else (on,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return
    if isinstance(on, type | tuple) or not callable(on) or is_async(on):
        allowed = "a type of Exception, a tuple of them, or a plain function of one that says yes or no"
        raise ConfigError.refusing(field, on, allowed)


def error_filter_name(on: ErrorFilter) -> str:
    """Return what an error edge is called that is for these errors."""
    if isinstance(on, type):
        return f"on {on.__name__}"
    if isinstance(on, tuple):
        return f"on {', '.join(kind.__name__ for kind in on)}"
    return f"on {predicate_name(on) or 'a predicate'}"


def always(state: Any) -> bool:  # noqa: ARG001 - a predicate is given the state
    """Hold for every state: what an edge without a predicate has."""
    return True


def key_exists(key: str) -> Predicate[Any]:
    """Return the predicate that holds where the state has `key`.

    In a mapping such as `State`, the key is there; in a typed state, the field is set to something else than None.

    Raises:
        ConfigError: `key` is not a name.
    """
    check_text("key", key)

    def holds(state: Any) -> bool:
        return key in state if isinstance(state, Mapping) else getattr(state, key, None) is not None

    return _named(holds, f"key_exists({show(key)})")


def key_equals(key: str, value: object) -> Predicate[Any]:
    """Return the predicate that holds where the state has `value` under `key`, or in the field of that name.

    Raises:
        ConfigError: `key` is not a name.
    """
    check_text("key", key)

    def holds(state: Any) -> bool:
        held = state.get(key, _MISSING) if isinstance(state, Mapping) else getattr(state, key, _MISSING)
        return bool(held == value)

    return _named(holds, f"key_equals({show(key)}, {show(value)})")


def not_(predicate: Predicate[S]) -> Predicate[S]:
    """Return the predicate that holds where `predicate` does not.

    Raises:
        ConfigError: `predicate` is not a plain function.
    """
    check_callable("predicate", predicate)

    def holds(state: S) -> bool:
        return not truth(predicate(state))

    return _named(holds, f"not {predicate_name(predicate) or 'a predicate'}")


def all_of(*predicates: Predicate[S]) -> Predicate[S]:
    """Return the predicate that holds where each of `predicates` does; they are asked in order, up to a no.

    Raises:
        ConfigError: there is none, or one is not a plain function.
    """
    name = _joined("all_of", predicates)

    def holds(state: S) -> bool:
        return all(truth(predicate(state)) for predicate in predicates)

    return _named(holds, name)


def any_of(*predicates: Predicate[S]) -> Predicate[S]:
    """Return the predicate that holds where one of `predicates` does; they are asked in order, up to a yes.

    Raises:
        ConfigError: there is none, or one is not a plain function.
    """
    name = _joined("any_of", predicates)

    def holds(state: S) -> bool:
        return any(truth(predicate(state)) for predicate in predicates)

    return _named(holds, name)


def predicate_name(predicate: Callable[..., object]) -> str | None:
    """Return the name of `predicate`; None where it has none that tells something."""
    name = getattr(predicate, "__name__", None)
    return clip(name) if isinstance(name, str) and name != "<lambda>" else None


def truth(answer: object) -> bool:
    """Return whether a predicate's `answer` is a yes; a coroutine is none, though it counts as true.

    Raises:
        TypeError: the answer has to be awaited: the predicate is async.
    """
    if answer is True or answer is False:
        return answer
    if hasattr(answer, "__await__"):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError("a predicate is a plain function, and this one gave something to await")
    return bool(answer)


def _joined(what: str, predicates: tuple[Predicate[S], ...]) -> str:
    if not predicates:
        raise ConfigError.refusing("predicates", predicates, "one predicate or more")
    for position, predicate in enumerate(predicates):
        check_callable(f"predicates[{position}]", predicate)
    return f"{what}({', '.join(predicate_name(predicate) or 'a predicate' for predicate in predicates)})"


def _named(predicate: Predicate[S], name: str) -> Predicate[S]:
    predicate.__name__ = predicate.__qualname__ = name
    return predicate
