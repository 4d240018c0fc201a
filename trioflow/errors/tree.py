"""The root of what trioflow raises, and the refusal of what cannot work."""

from collections.abc import Iterator
from typing import Any, Self

from trioflow._text import describe_error, one_line, show

__all__ = ("ConfigError", "PlacedError", "TrioflowError", "leaves")


class TrioflowError(Exception):
    """The root of what trioflow itself raises."""


class ConfigError(TrioflowError, ValueError):
    """An argument, a setting or a file that cannot work, refused before any work starts.

    Attributes:
        field: the name of the argument or field; None where a whole file is refused.
        value: what was given.
        allowed: what would be accepted, in words.
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
        """Return the error that says that `field` must be `allowed` and is `value`."""
        message = f"{field} must be {allowed}, got {show(value)}"
        return cls(message, field=field, value=value, allowed=allowed)


class PlacedError(TrioflowError):
    """A failure whose place the error names, and whose cause the message quotes."""

    def __str__(self) -> str:
        return f"{self._place()}: {self._what()}"

    def __repr__(self) -> str:
        # Not that of the arguments: items and states are among them.
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle without their cause, but here the message is the cause's.
        return type(self), self.args, {**self.__dict__, "__cause__": self.__cause__}

    def _place(self) -> str:
        raise NotImplementedError

    def _what(self) -> str:
        return one_line(describe_error(self.__cause__)) if self.__cause__ is not None else "no cause is known"


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in `error` that are no groups, or `error` itself where it is none."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from leaves(member)
    else:
        yield error
