"""What goes wrong between a call and the place where it is made."""

from typing import Literal

from trioflow.errors.tree import TrioflowError

__all__ = ("TransferError",)


class TransferError(TrioflowError):
    """A call was not made, or its outcome is lost: something could not be pickled, or unpickled at the other end.

    Attributes:
        what: what it was.
    """

    def __init__(self, message: str, what: Literal["function", "argument", "result", "error"]) -> None:
        super().__init__(message, what)
        self.what = what

    def __str__(self) -> str:
        return str(self.args[0])
