"""The root of what trioflow raises, and the refusal of what cannot work."""

from typing import Self

from trioflow._text import show

__all__ = ("ConfigError", "TrioflowError")


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
