"""The exception of budgets."""

from trioflow._text import one_line
from trioflow.errors.tree import TrioflowError

__all__ = ("BudgetExceededError",)


class BudgetExceededError(TrioflowError):
    """A reservation exceeds what a budget has left; nothing was reserved.

    Attributes:
        unit: the unit that is exceeded.
        limit: the limit of that unit.
        spent: the amount spent.
        reserved: the amount reserved by running calls.
        asked: the amount requested.
    """

    def __init__(self, unit: str, limit: float, spent: float, reserved: float, asked: float) -> None:
        super().__init__(unit, limit, spent, reserved, asked)
        self.unit = unit
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        self.asked = asked

    def __str__(self) -> str:
        held = f"{self.spent:g} spent and {self.reserved:g} reserved"
        return f"budget of {self.limit:g} {one_line(self.unit)} exceeded: {held}, {self.asked:g} asked for"
