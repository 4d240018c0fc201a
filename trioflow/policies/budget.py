"""What calls may spend, in units that the user names: tokens, money, calls.

A call reserves what it is thought to cost before it begins, and says what it did cost when it ends. A reservation
is one plain step, over a budget and those that it is part of, so that no two calls are let in for the same money,
whatever the scheduler does. What a call spent is then off by what its estimate was off, and by nothing else.
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
"""The part of a limit that does not count: sums of floats are off by less."""


class BudgetState(msgspec.Struct, frozen=True):
    """How a budget stands, by unit."""

    spent: Mapping[str, float]
    """What was spent."""
    reserved: Mapping[str, float]
    """What calls in hand have reserved."""
    remaining: Mapping[str, float]
    """What may still be reserved: the limit less both; below 0 where calls cost more than they had reserved."""


@final
class Budget:
    """What may be spent, by unit; shared by whatever is given the same object.

    A budget that has a `parent` is a part of it: each reservation must fit into both. Each counts the units that
    it limits, and no others. Use one from the thread of its `trio.run`.

    Args:
        limits: what may be spent of each unit.
        parent: the budget that this one is a part of.
        spent: what was spent before, such as before a restart; it counts here, not in the parent.

    Raises:
        ConfigError: an amount is negative or no number, a name is no text, `parent` is no budget or this one, or
            `spent` names a unit that is not in `limits`.
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
        # Only an object that is initialised again can be its own ancestor.
        own: _Account | None = getattr(self, "_account", None)
        ancestors = () if parent is None else parent._account.chain  # noqa: SLF001 - of the same class
        if own is not None and own in ancestors:
            raise ConfigError.refusing("parent", parent, "a budget that this one is no ancestor of")
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
        """What was spent, by unit; a copy."""
        return dict(self._account.spent)

    @property
    def reserved(self) -> Mapping[str, float]:
        """What calls in hand have reserved, by unit; a copy."""
        return dict(self._account.reserved)

    @property
    def remaining(self) -> Mapping[str, float]:
        """What may still be reserved of each unit that this budget limits: the limit less both; a copy."""
        return self._account.remaining()

    @property
    def live(self) -> LiveValue[BudgetState]:
        """How the budget stands, to wait for; the iteration over its values does not end by itself."""
        account = self._account
        if account.live is None:
            account.live = Live(account.state)
        return account.live

    def reserve(self, /, **amounts: float) -> "Reservation":
        """Return a context manager that reserves `amounts` while its block runs; see `Reservation`.

        Entering it raises `BudgetExceededError`, and reserves nothing, where an amount is more than this budget
        or one that it is a part of has left.

        Raises:
            ConfigError: an amount is negative or no number, or no budget of the chain limits its unit.
        """
        self._account.check("amounts", amounts)
        return Reservation(self._account, amounts)


@final
class Reservation:
    """What one call has reserved: a context manager, to be entered once.

    When its block ends, however it does, what was reserved counts as spent, unless `settle` said otherwise.
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
            raise RuntimeError("a reservation is for one block: call reserve again")
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
        """Say what the call did cost; it is counted when the block ends. The last call wins.

        A reserved unit that is not named counts as it was reserved, one that was not reserved is added.

        Raises:
            ConfigError: an amount is negative or no number, or no budget of the chain limits its unit.
            RuntimeError: the block has not begun, or has ended.
        """
        if self._state != "held":
            raise RuntimeError(f"a reservation is settled in its block, and this one is {self._state}")
        self._account.check("actual", actual)
        self._actual = actual


def with_budget(
    fn: Callable[P, Awaitable[R]],
    budget: Budget,
    *,
    estimate: Mapping[str, float] | Callable[..., Mapping[str, float]],
    actual: Callable[[R], Mapping[str, float]] | None = None,
) -> Callable[P, Awaitable[R]]:
    """Return `fn` that reserves its cost before each call, and fails where there is not enough left.

    A call that fails or is cancelled counts as it was reserved.

    Args:
        fn: an async function.
        budget: what pays; give several functions or runs the same object to share it.
        estimate: what a call is thought to cost, or a plain function of the call's arguments that says it.
        actual: a plain function of what `fn` returned that says what it did cost; None, or a unit that it leaves
            out, is the estimate.

    Raises:
        ConfigError: `fn` is not async, or an argument is of the wrong kind; by the returned function where
            `estimate` or `actual` gives what is no amounts.
        BudgetExceededError: by the returned function, before it calls `fn`.

    Cancellation: passes through; what was reserved counts as spent.
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
        # What a Reservation does, without the object: this is paid by each call.
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
    """The numbers of one budget, and the two steps that change them, over it and its ancestors."""

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
        """Refuse what is no mapping of units that the chain limits to amounts."""
        _check_amounts(field, amounts, self.chain)

    @trio.lowlevel.enable_ki_protection
    def take(self, amounts: Amounts) -> None:
        """Reserve `amounts`, all of them in the whole chain or nothing."""
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
        """Spend `actual` for what was reserved as `amounts`, in the whole chain."""
        for account in self.chain:
            account.release(amounts)
            spent = account.spent
            for unit, cost in actual.items():
                if unit in spent:
                    spent[unit] += cost
            if account.live is not None:
                account.live.publish()

    def release(self, amounts: Amounts) -> None:
        """Take `amounts` out of what is reserved here."""
        reserved = self.reserved
        self.held -= 1
        if self.held:
            for unit, asked in amounts.items():
                if unit in reserved:
                    reserved[unit] -= asked
        else:
            # Differences of floats leave dust, which the last one out sweeps up.
            for unit in reserved:
                reserved[unit] = 0.0


def _check_amounts(field: str, amounts: Any, chain: "tuple[_Account, ...] | None" = None) -> None:
    """Refuse what is no mapping of units, known ones where there is a `chain`, to finite amounts of 0 or more."""
    # The usual answers come first: this is asked at each call.
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
