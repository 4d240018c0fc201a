"""What a budget raises."""

from trioflow._text import one_line
from trioflow.errors.tree import TrioflowError

__all__ = ("BudgetExceededError",)


class BudgetExceededError(TrioflowError):
    """What was asked for is more than a budget has left; nothing was reserved.

    Attributes:
        unit: of what there is not enough.
        limit: what may be spent of it in all.
        spent: what was spent.
        reserved: what calls in hand had reserved.
        asked: what was asked for.
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
