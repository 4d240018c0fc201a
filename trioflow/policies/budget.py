"""Budgets: limits on what calls spend, in units that the user names, such as tokens, money or calls.

A call reserves its estimated cost before it starts, and settles the actual cost when it ends. A reservation is
made in one synchronous step, in a budget and all its ancestors, so that two calls cannot reserve the same money in
any order of scheduling. Spending therefore exceeds a limit only by what running calls had underestimated.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, final

import msgspec
import trio

from trioflow._live import Live
from trioflow._text import one_line, show
from trioflow.config.checks import check_async, check_callable, check_instance, check_number, check_text
from trioflow.errors import BudgetExceededError, ConfigError
from trioflow.outcomes import LiveValue

__all__ = ("Budget", "BudgetState", "Reservation", "with_budget")

P = ParamSpec("P")
R = TypeVar("R")

Amounts = Mapping[str, float]

TOLERANCE = 1e-9
"""Relative tolerance of a limit: larger than the rounding errors of sums of floats."""


class BudgetState(msgspec.Struct, frozen=True):
    """The state of a budget; each mapping is by unit."""

    spent: Mapping[str, float]
    """Amounts spent."""
    reserved: Mapping[str, float]
    """Amounts reserved by running calls."""
    remaining: Mapping[str, float]
    """Amounts left to reserve: limit - spent - reserved; negative if calls cost more than they had reserved."""


@final
class Budget:
    """Limits on what may be spent, by unit; share one by passing the same object.

    A budget with a `parent` is a part of it: each reservation must fit into both. A budget counts only the units
    that it limits. Not thread-safe: use it only in the thread of its `trio.run`.

    Args:
        limits: the limit of each unit.
        parent: the budget that this one is a part of.
        spent: amounts already spent, such as before a restart; they count here, not in the parent.

    Raises:
        ConfigError: an amount is negative or not a number, a unit is not a string, `parent` is not a budget or has
            this one as its ancestor, or `spent` names a unit that is not in `limits`.
    """

    __slots__ = ("_account",)
    _account: "_Account"

    def __init__(
        self,
        limits: Mapping[str, float],
        *,
        parent: "Budget | None" = None,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        check_instance("parent", parent, Budget, optional=True)
        # An object can be its own ancestor only if `__init__` is called on it again.
        own: _Account | None = getattr(self, "_account", None)
        ancestors = () if parent is None else parent._account.chain  # noqa: SLF001 - of the same class
        if own is not None and own in ancestors:
            raise ConfigError.refusing("parent", parent, "a budget of which this one is not an ancestor")
        _check_amounts("limits", limits)
        account: _Account = _Account(limits, ancestors)
        if spent is not None:
            _check_amounts("spent", spent, (account,))
            account.spent.update(spent)
        self._account = account

    def __repr__(self) -> str:
        account = self._account
        parts = [
            f"{one_line(unit)} {account.spent[unit]:g} spent and {account.reserved[unit]:g} reserved of {limit:g}"
            for unit, limit in account.limits.items()
        ]
        return f"<Budget {', '.join(parts) or 'without limits of its own'}>"

    @property
    def spent(self) -> Mapping[str, float]:
        """Amounts spent, by unit; a copy."""
        return dict(self._account.spent)

    @property
    def reserved(self) -> Mapping[str, float]:
        """Amounts reserved by running calls, by unit; a copy."""
        return dict(self._account.reserved)

    @property
    def remaining(self) -> Mapping[str, float]:
        """Amounts left to reserve, by unit: limit - spent - reserved; a copy."""
        return self._account.remaining()

    @property
    def live(self) -> LiveValue[BudgetState]:
        """The state of the budget, to wait on; iterating over its values never ends by itself."""
        account = self._account
        if account.live is None:
            account.live = Live(account.state)
        return account.live

    def reserve(self, /, **amounts: float) -> "Reservation":
        """Return a context manager that reserves `amounts` while its block runs; see `Reservation`.

        Entering it raises `BudgetExceededError`, and reserves nothing, if an amount exceeds what this budget or an
        ancestor has left.

        Raises:
            ConfigError: an amount is negative or not a number, or neither this budget nor an ancestor limits its
                unit.
        """
        self._account.check("amounts", amounts)
        return Reservation(self._account, amounts)


@final
class Reservation:
    """The reservation of one call: a context manager that can be entered once.

    However its block ends, the reserved amounts then count as spent, unless `settle` gave other ones.
    """

    __slots__ = ("_account", "_actual", "_amounts", "_state")

    def __init__(self, account: "_Account", amounts: Amounts) -> None:
        self._account = account
        self._amounts = amounts
        self._actual: Amounts | None = None
        self._state = "not entered"

    def __repr__(self) -> str:
        return f"<Reservation of {one_line(repr(dict(self._amounts)))}, {self._state}>"

    @trio.lowlevel.enable_ki_protection
    def __enter__(self) -> Self:
        if self._state != "not entered":
            raise RuntimeError("a reservation can be entered only once: call reserve again")
        self._account.take(self._amounts)
        self._state = "held"
        return self

    @trio.lowlevel.enable_ki_protection
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = "over"
        amounts = self._amounts
        self._account.settle(amounts, amounts if self._actual is None else {**amounts, **self._actual})

    def settle(self, /, **actual: float) -> None:
        """Set the actual cost of the call; it counts when the block ends. The last call wins.

        A reserved unit that is not named counts as reserved; one that was not reserved is added.

        Raises:
            ConfigError: an amount is negative or not a number, or neither the budget nor an ancestor limits its
                unit.
            RuntimeError: called outside the block.
        """
        if self._state != "held":
            raise RuntimeError(f"settle must be called inside the reservation's block; this one is {self._state}")
        self._account.check("actual", actual)
        self._actual = actual


def with_budget(
    fn: Callable[P, Awaitable[R]],
    budget: Budget,
    *,
    estimate: Mapping[str, float] | Callable[..., Mapping[str, float]],
    actual: Callable[[R], Mapping[str, float]] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Wrap `fn` so that each call first reserves its estimated cost, and fails if too little is left.

    The estimate of a call that fails or is cancelled counts as spent.

    Args:
        fn: an async function.
        budget: the budget that is charged; pass the same object to several functions or runs to share it.
        estimate: the estimated cost of a call, or a plain function of the call's arguments that returns it.
        actual: a plain function of the result of `fn` that returns the actual cost; None, or a unit that it leaves
            out, is the estimate.

    Raises:
        ConfigError: `fn` is not async, or an argument is of the wrong kind; from the wrapper, if `estimate` or
            `actual` returns something other than amounts.
        BudgetExceededError: from the wrapper, before it calls `fn`.

    Cancellation: passes through; the estimate counts as spent.
    """
    check_async("fn", fn)
    check_instance("budget", budget, Budget)
    check_callable("actual", actual, optional=True)
    account = budget._account  # noqa: SLF001 - of the same module
    expected: Callable[..., Amounts] | None = None
    fixed: Amounts = {}
    if callable(estimate):
        check_callable("estimate", estimate)
        expected = estimate
    else:
        account.check("estimate", estimate)
        fixed = dict(estimate)

    @wraps(fn)
    async def budgeted(*args: P.args, **kwargs: P.kwargs) -> R:
        # Does what a Reservation does, without the object: each call pays for this.
        amounts: Amounts = fixed
        if expected is not None:
            amounts = expected(*args, **kwargs)
            _check_amounts("estimate", amounts, account.chain)
            amounts = dict(amounts)
        cost = amounts
        account.take(amounts)
        try:
            result = await fn(*args, **kwargs)
            if actual is not None:
                settled = actual(result)
                _check_amounts("actual", settled, account.chain)
                cost = {**amounts, **settled}
            return result
        finally:
            account.settle(amounts, cost)

    return budgeted


@final
class _Account:
    """The amounts of one budget, and the two operations that change them, in it and its ancestors."""

    __slots__ = ("ceilings", "chain", "held", "limits", "live", "reserved", "spent")

    def __init__(self, limits: Amounts, ancestors: "tuple[_Account, ...]") -> None:
        self.chain: tuple[_Account, ...] = (self, *ancestors)
        self.limits: dict[str, float] = dict(limits)
        self.ceilings: dict[str, float] = {unit: limit + limit * TOLERANCE for unit, limit in limits.items()}
        self.spent: dict[str, float] = dict.fromkeys(limits, 0.0)
        self.reserved: dict[str, float] = dict.fromkeys(limits, 0.0)
        self.held: int = 0
        self.live: Live[BudgetState] | None = None

    def remaining(self) -> dict[str, float]:
        return {unit: limit - self.spent[unit] - self.reserved[unit] for unit, limit in self.limits.items()}

    def state(self) -> BudgetState:
        return BudgetState(dict(self.spent), dict(self.reserved), self.remaining())

    def check(self, field: str, amounts: object) -> None:
        """Require a mapping of units that the chain limits to amounts."""
        _check_amounts(field, amounts, self.chain)

    @trio.lowlevel.enable_ki_protection
    def take(self, amounts: Amounts) -> None:
        """Reserve all `amounts` in the whole chain, or nothing."""
        for account in self.chain:
            ceilings, spent, reserved = account.ceilings, account.spent, account.reserved
            for unit, asked in amounts.items():
                if unit in ceilings and spent[unit] + reserved[unit] + asked > ceilings[unit]:
                    raise BudgetExceededError(unit, account.limits[unit], spent[unit], reserved[unit], asked)
        for account in self.chain:
            reserves = account.reserved
            for unit, asked in amounts.items():
                if unit in reserves:
                    reserves[unit] += asked
            account.held += 1
            if account.live is not None:
                account.live.publish()

    @trio.lowlevel.enable_ki_protection
    def settle(self, amounts: Amounts, actual: Amounts) -> None:
        """Replace the reservation of `amounts` by spending `actual`, in the whole chain."""
        for account in self.chain:
            account.release(amounts)
            spent = account.spent
            for unit, cost in actual.items():
                if unit in spent:
                    spent[unit] += cost
            if account.live is not None:
                account.live.publish()

    def release(self, amounts: Amounts) -> None:
        """Subtract `amounts` from what is reserved here."""
        reserved = self.reserved
        self.held -= 1
        if self.held:
            for unit, asked in amounts.items():
                if unit in reserved:
                    reserved[unit] -= asked
        else:
            # Nothing is reserved any more: reset the rounding errors of floats.
            for unit in reserved:
                reserved[unit] = 0.0


def _check_amounts(field: str, amounts: Any, chain: "tuple[_Account, ...] | None" = None) -> None:
    """Require a mapping of units, with a `chain` of units that it limits, to finite amounts of 0 or more."""
    # The common cases come first: this runs at each call.
    if type(amounts) is not dict and not isinstance(amounts, Mapping):
        raise ConfigError.refusing(field, amounts, "a mapping of units to amounts")
    for unit, amount in amounts.items():
        if chain is None:
            check_text("unit", unit)
        elif unit not in chain[0].limits and not any(unit in account.limits for account in chain):
            known = ", ".join(dict.fromkeys(show(name) for account in chain for name in account.limits)) or "none"
            raise ConfigError.refusing("unit", unit, f"one that the budget or an ancestor limits: {known}")
        if (type(amount) is not float and type(amount) is not int) or not 0 <= amount < math.inf:
            check_number(f"{field}[{show(unit)}]", amount, allowed="0 or more", least="zero")
