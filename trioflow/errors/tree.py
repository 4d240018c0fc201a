"""The base classes of the errors, and `ConfigError`."""

from collections.abc import Iterator
from typing import Any, Self

from trioflow._text import describe_error, one_line, show

__all__ = ("ConfigError", "PlacedError", "TrioflowError", "leaves")


class TrioflowError(Exception):
    """Base of the exceptions that trioflow itself raises."""


class ConfigError(TrioflowError, ValueError):
    """An argument, a setting or a file is invalid; raised before any work starts.

    Attributes:
        field: the name of the argument or field; None if a whole file is refused.
        value: the value given.
        allowed: a description of what is accepted.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.allowed = allowed

    @classmethod
    def refusing(cls, field: str, value: object, allowed: str) -> Self:
        """Return an error that says that `field` must be `allowed`, and is `value`."""
        message = f"{field} must be {allowed}, got {show(value)}"
        return cls(message, field=field, value=value, allowed=allowed)


class PlacedError(TrioflowError):
    """An error that names the place of a failure, and whose message quotes the cause."""

    def __str__(self) -> str:
        return f"{self._place()}: {self._what()}"

    def __repr__(self) -> str:
        # Without the arguments: items and states are among them.
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle without their cause, but here the message is the cause's.
        return type(self), self.args, {**self.__dict__, "__cause__": self.__cause__}

    def _place(self) -> str:
        raise NotImplementedError

    def _what(self) -> str:
        return one_line(describe_error(self.__cause__)) if self.__cause__ is not None else "no cause is known"


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in the group `error` that are not groups, or `error` itself if it is not a group."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves(member)
    else:
        yield error
