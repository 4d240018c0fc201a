"""Checks of single values: each raises `ConfigError` with the field, the value and what is allowed.

msgspec checks types when it decodes, not when a struct is constructed; these checks run in both cases. They
also validate function arguments.
"""

import functools
import inspect
import math
import re
import typing
from collections.abc import Awaitable, Sequence
from types import FunctionType
from typing import Literal

import trio

from trioflow.errors import ConfigError

__all__ = (
    "check_async",
    "check_callable",
    "check_choice",
    "check_count",
    "check_flag",
    "check_in_trio",
    "check_instance",
    "check_number",
    "check_seconds",
    "check_text",
    "is_async",
    "may_give_awaitable",
)

_AWAITABLE = re.compile(r"([\w.]+\.)?(Awaitable|Coroutine)\b")
"""Matches a string annotation, as under `from __future__ import annotations`."""


def check_count(field: str, value: object, *, minimum: int, allowed: str) -> None:
    """Require a whole number of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError.refusing(field, value, f"a whole number, {allowed}")
    if value < minimum:
        raise ConfigError.refusing(field, value, allowed)


def check_number(
    field: str,
    value: object,
    *,
    allowed: str,
    least: Literal["positive", "zero", "any"] = "positive",
) -> None:
    """Require a finite number: above zero, zero or more, or any, as `least` says."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError.refusing(field, value, allowed)
    if (value < 0 and least != "any") or (value == 0 and least == "positive"):
        raise ConfigError.refusing(field, value, allowed)


def check_seconds(field: str, value: object, *, optional: bool = True) -> None:
    """Require a positive, finite number of seconds (`optional`: or None, for no limit)."""
    if value is None and optional:
        return
    allowed = "a positive number of seconds"
    check_number(field, value, allowed=f"{allowed} or None (no limit)" if optional else allowed)


def check_flag(field: str, value: object) -> None:
    """Require a bool."""
    if not isinstance(value, bool):
        raise ConfigError.refusing(field, value, "True or False")


def check_in_trio() -> None:
    """Require a running Trio event loop: under asyncio, Trio's own error does not say what to do.

    Raises:
        RuntimeError: no `trio.run` is running in this thread.
    """
    if not trio.lowlevel.in_trio_run():
        message = "trioflow needs Trio: start the program with trio.run(main), not with asyncio.run(main())"
        raise RuntimeError(message)


def check_text(field: str, value: object, allowed: str = "a non-empty string") -> None:
    """Require a string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError.refusing(field, value, allowed)


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Require one of `choices`."""
    if value not in choices:
        named = ", ".join(repr(choice) for choice in choices)
        raise ConfigError.refusing(field, value, f"one of {named}")


def check_instance(field: str, value: object, kind: type, *, optional: bool = False) -> None:
    """Require an instance of `kind` (`optional`: or None)."""
    if not (isinstance(value, kind) or (optional and value is None)):
        raise ConfigError.refusing(
            field, value, f"a {kind.__name__}{' or None' if optional else ''}"
        )


def check_async(field: str, value: object) -> None:
    """Require an async function, without calling it, which would start the work.

    A plain function may declare in its annotation that it returns an awaitable. A lambda cannot; it passes, and
    the first call decides.
    """
    if inspect.iscoroutine(value):
        raise ConfigError.refusing(field, value, "an async function itself, not the coroutine it returns")
    if not is_async(value) and not may_give_awaitable(value):
        allowed = (
            "an async function (async def; wrap a blocking one in trio.to_thread.run_sync; "
            "annotate a plain one that returns an awaitable: -> Awaitable[...])"
        )
        raise ConfigError.refusing(field, value, allowed)


def check_callable(field: str, value: object, *, optional: bool = False) -> None:
    """Require a callable that is not async (`optional`: or None)."""
    if (optional and value is None) or (callable(value) and not is_async(value) and not _says_awaitable(value)):
        return
    allowed = "a plain function (def, not async def)"
    raise ConfigError.refusing(field, value, f"{allowed} or None" if optional else allowed)


def may_give_awaitable(value: object) -> bool:
    """Whether `value` is no async function, and calling it may return an awaitable all the same.

    A plain function declares it in its annotation; a lambda may.
    """
    if inspect.iscoroutinefunction(value):
        return False
    return _is_lambda(value) or _says_awaitable(value)


def is_async(value: object) -> bool:
    """Whether `value` is an async function, as far as one can tell without calling it."""
    while isinstance(value, functools.partial):
        value = value.func
    if not callable(value):
        return False
    # Decorators that return a plain wrapper (openai's methods, for one) keep the async function in `__wrapped__`.
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(inspect.unwrap(value)):
        return True
    return not isinstance(value, type) and inspect.iscoroutinefunction(type(value).__call__)


def _is_lambda(value: object) -> bool:
    return isinstance(value, FunctionType) and value.__code__.co_name == "<lambda>"


def _says_awaitable(value: object) -> bool:
    """Whether a plain function is annotated as returning an awaitable."""
    while isinstance(value, functools.partial):
        value = value.func
    if not callable(value) or isinstance(value, type):
        return False
    function = inspect.unwrap(value)
    if not inspect.isroutine(function):
        function = type(function).__call__
    returned = getattr(function, "__annotations__", {}).get("return")
    if isinstance(returned, str):
        return _AWAITABLE.match(returned) is not None
    kind = typing.get_origin(returned) or returned
    return isinstance(kind, type) and issubclass(kind, Awaitable)
