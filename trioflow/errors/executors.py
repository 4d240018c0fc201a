"""The exception of calls whose arguments or outcome cannot be transferred."""

from typing import Literal

from trioflow.errors.tree import TrioflowError

__all__ = ("TransferError",)


class TransferError(TrioflowError):
    """A call was not made, or its outcome is lost: something could not be pickled, or unpickled on the other side.

    Attributes:
        what: the part that could not be transferred.
    """

    def __init__(self, message: str, what: Literal["function", "argument", "result", "error"]) -> None:
        super().__init__(message, what)
        self.what = what

    def __str__(self) -> str:
        return str(self.args[0])
