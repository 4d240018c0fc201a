"""Edges, and the predicates that decide which one is taken.

A predicate is any plain function of the state. Those built here have readable names, which events and diagrams
show.
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
"""The errors that an error edge matches: types, or a predicate of the error."""

_MISSING = object()


class Edge(msgspec.Struct, Generic[S], frozen=True):
    """An edge from one node to another."""

    source: str
    """The node it leaves."""
    target: str
    """The node it leads to."""
    when: Predicate[S]
    """Whether it may be taken."""
    name: str | None
    """The predicate's name, if it has one."""


class ErrorEdge(msgspec.Struct, Generic[S], frozen=True):
    """An edge that is taken if a node fails."""

    source: str
    """The node it leaves."""
    target: str
    """The node it leads to."""
    on: ErrorFilter
    """The errors that it matches."""
    update: Callable[[S, Exception], S] | None
    """Returns the state to continue with, given the node's input state and the error."""
    name: str
    """Its name in events and diagrams."""

    def matches(self, error: Exception) -> bool:
        """Whether it matches `error`.

        Raises:
            Exception: what a predicate raised.
        """
        if isinstance(self.on, type | tuple):
            return isinstance(error, self.on)
        return truth(call_plain(self.on, error))


def check_error_filter(field: str, on: object) -> None:
    """Require types of `Exception` or a predicate of one."""
    kinds = on if isinstance(on, tuple) else (on,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return
    if isinstance(on, type | tuple) or not callable(on) or is_async(on):
        allowed = "a subclass of Exception, a tuple of such, or a plain function of the error that returns a bool"
        raise ConfigError.refusing(field, on, allowed)


def error_filter_name(on: ErrorFilter) -> str:
    """Return the name of an error edge that matches these errors."""
    if isinstance(on, type):
        return f"on {on.__name__}"
    if isinstance(on, tuple):
        return f"on {', '.join(kind.__name__ for kind in on)}"
    return f"on {predicate_name(on) or 'a predicate'}"


def always(state: Any) -> bool:  # noqa: ARG001 - a predicate takes the state
    """Hold for every state: the predicate of an edge without one."""
    return True


def key_exists(key: str) -> Predicate[Any]:
    """Return a predicate that holds if the state has `key`.

    A mapping such as `State` has the key; a typed state has a field of that name that is not None.

    Raises:
        ConfigError: `key` is not a name.
    """
    check_text("key", key)

    def holds(state: Any) -> bool:
        return key in state if isinstance(state, Mapping) else getattr(state, key, None) is not None

    return _named(holds, f"key_exists({show(key)})")


def key_equals(key: str, value: object) -> Predicate[Any]:
    """Return a predicate that holds if the state has `value` under `key`, or in the field of that name.

    Raises:
        ConfigError: `key` is not a name.
    """
    check_text("key", key)

    def holds(state: Any) -> bool:
        held = state.get(key, _MISSING) if isinstance(state, Mapping) else getattr(state, key, _MISSING)
        return bool(held == value)

    return _named(holds, f"key_equals({show(key)}, {show(value)})")


def not_(predicate: Predicate[S]) -> Predicate[S]:
    """Return a predicate that holds if `predicate` does not.

    Raises:
        ConfigError: `predicate` is not a plain function.
    """
    check_callable("predicate", predicate)

    def holds(state: S) -> bool:
        return not truth(predicate(state))

    return _named(holds, f"not {predicate_name(predicate) or 'a predicate'}")


def all_of(*predicates: Predicate[S]) -> Predicate[S]:
    """Return a predicate that holds if all `predicates` do; evaluates them up to the first false one.

    Raises:
        ConfigError: there is none, or one is not a plain function.
    """
    name = _joined("all_of", predicates)

    def holds(state: S) -> bool:
        return all(truth(predicate(state)) for predicate in predicates)

    return _named(holds, name)


def any_of(*predicates: Predicate[S]) -> Predicate[S]:
    """Return a predicate that holds if any of `predicates` does; evaluates them up to the first true one.

    Raises:
        ConfigError: there is none, or one is not a plain function.
    """
    name = _joined("any_of", predicates)

    def holds(state: S) -> bool:
        return any(truth(predicate(state)) for predicate in predicates)

    return _named(holds, name)


def predicate_name(predicate: Callable[..., object]) -> str | None:
    """Return the name of `predicate`; None for a lambda, or if it has none."""
    name = getattr(predicate, "__name__", None)
    return clip(name) if isinstance(name, str) and name != "<lambda>" else None


def truth(answer: object) -> bool:
    """Return the truth of a predicate's `answer`.

    Raises:
        TypeError: the answer is awaitable: the predicate is async.
    """
    if answer is True or answer is False:
        return answer
    if hasattr(answer, "__await__"):
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        raise TypeError("a predicate must be a plain function; this one returned an awaitable")
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
