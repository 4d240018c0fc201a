"""`Budget`: what is reserved, what is spent, and that no schedule spends more than was estimated."""

import math
import pickle
from contextlib import aclosing

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trioflow import (
    Budget,
    BudgetExceededError,
    BudgetState,
    ConfigError,
    ParallelConfig,
    RetryConfig,
    TrioflowError,
    process_parallel,
    with_budget,
    with_retry,
)


def test_what_is_reserved_counts_as_spent_when_the_block_ends():
    budget = Budget({"usd": 10, "calls": 3})
    assert budget.spent == budget.reserved == {"usd": 0, "calls": 0}
    with budget.reserve(usd=2.5, calls=1):
        assert budget.reserved == {"usd": 2.5, "calls": 1}
        assert budget.spent == {"usd": 0, "calls": 0}
        assert budget.remaining == {"usd": 7.5, "calls": 2}
    assert budget.reserved == {"usd": 0, "calls": 0}
    assert budget.spent == {"usd": 2.5, "calls": 1}
    assert budget.remaining == {"usd": 7.5, "calls": 2}


def test_settling_says_what_it_was_and_the_last_call_wins():
    budget = Budget({"usd": 10, "calls": 3})
    with budget.reserve(usd=5) as held:
        held.settle(usd=1, calls=3)
        held.settle(calls=1)
    assert budget.spent == {"usd": 5, "calls": 1}
    with budget.reserve(usd=5, calls=1) as held:
        held.settle(usd=0.5)
    assert budget.spent == {"usd": 5.5, "calls": 2}
    with budget.reserve(usd=1) as held:
        held.settle()
    assert budget.spent == {"usd": 6.5, "calls": 2}


def test_more_than_is_left_is_refused_and_nothing_is_reserved():
    budget = Budget({"usd": 10, "calls": 5}, spent={"usd": 4})
    with budget.reserve(usd=3):
        with pytest.raises(BudgetExceededError) as caught:
            with budget.reserve(calls=1, usd=3.5):
                raise AssertionError
        assert budget.reserved == {"usd": 3, "calls": 0}
        with budget.reserve(usd=3):
            assert budget.remaining["usd"] == 0
    error = caught.value
    assert isinstance(error, TrioflowError)
    assert (error.unit, error.limit, error.spent, error.reserved, error.asked) == ("usd", 10, 4, 3, 3.5)
    assert str(error) == "budget of 10 usd exceeded: 4 spent and 3 reserved, 3.5 asked for"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.asked) == (str(error), 3.5)


def test_the_first_unit_asked_for_of_the_nearest_budget_is_named():
    whole = Budget({"usd": 1, "calls": 1, "tokens": 1})
    part = Budget({"calls": 1}, parent=whole)
    with pytest.raises(BudgetExceededError) as caught:
        part.reserve(usd=2, calls=2).__enter__()
    assert caught.value.unit == "calls"
    with pytest.raises(BudgetExceededError) as caught:
        part.reserve(tokens=2, usd=2).__enter__()
    assert caught.value.unit == "tokens"


def test_a_part_counts_in_the_whole_and_must_fit_into_it():
    whole = Budget({"usd": 10}, spent={"usd": 5})
    one, other = Budget({"usd": 4}, parent=whole), Budget({"calls": 2}, parent=whole)
    with one.reserve(usd=3) as held:
        assert whole.reserved == {"usd": 3}
        with pytest.raises(BudgetExceededError) as caught:
            other.reserve(usd=2.5, calls=1).__enter__()
        assert (caught.value.limit, caught.value.spent, caught.value.reserved) == (10, 5, 3)
        assert other.reserved == {"calls": 0}
        held.settle(usd=1)
    with other.reserve(usd=4, calls=1):
        pass
    assert whole.spent == {"usd": 10}
    assert one.spent == {"usd": 1}
    assert other.spent == {"calls": 1}
    assert other.remaining == {"calls": 1}


def test_what_was_spent_before_counts_and_may_be_over_the_limit():
    budget = Budget({"usd": 10}, spent={"usd": 12})
    assert budget.remaining == {"usd": -2}
    with pytest.raises(BudgetExceededError):
        budget.reserve(usd=0.1).__enter__()


def test_dust_of_floats_is_neither_over_the_limit_nor_left_reserved():
    budget = Budget({"usd": 0.3})
    with budget.reserve(usd=0.1), budget.reserve(usd=0.2), pytest.raises(BudgetExceededError):
        budget.reserve(usd=1e-6).__enter__()
    assert budget.reserved == {"usd": 0}
    budget = Budget({"usd": 1})
    for _ in range(10):
        with budget.reserve(usd=0.1):
            pass
    with pytest.raises(BudgetExceededError):
        budget.reserve(usd=0.1).__enter__()


def test_a_limit_of_nothing_lets_only_nothing_through():
    budget = Budget({"usd": 0})
    with budget.reserve(usd=0):
        pass
    with pytest.raises(BudgetExceededError):
        budget.reserve(usd=1e-12).__enter__()


@pytest.mark.parametrize("settled", [False, True])
async def test_an_error_and_a_cancellation_cost_what_was_reserved_unless_settled(autojump_clock, settled):
    budget = Budget({"usd": 10})
    with pytest.raises(OSError):
        with budget.reserve(usd=1) as held:
            if settled:
                held.settle(usd=0.25)
            raise OSError
    with trio.move_on_after(1):
        with budget.reserve(usd=1) as held:
            if settled:
                held.settle(usd=0.25)
            await trio.sleep_forever()
    assert budget.spent == {"usd": 0.5 if settled else 2}
    assert budget.reserved == {"usd": 0}


def test_a_reservation_is_for_one_block():
    held = Budget({"usd": 10}).reserve(usd=1)
    with pytest.raises(RuntimeError, match="not entered"):
        held.settle(usd=1)
    with held:
        with pytest.raises(RuntimeError, match="entered only once"):
            held.__enter__()
    with pytest.raises(RuntimeError, match="inside the reservation's block; this one is over"):
        held.settle(usd=1)
    with pytest.raises(RuntimeError, match="entered only once"):
        held.__enter__()
    assert "over" in repr(held)


async def test_the_state_can_be_waited_for(autojump_clock):
    whole = Budget({"usd": 10})
    part = Budget({"calls": 2}, parent=whole)
    seen = []

    async def watch():
        async with aclosing(whole.live.eventual_values()) as states:
            async for state in states:
                seen.append(state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        with part.reserve(usd=4, calls=1):
            await wait_all_tasks_blocked()
        assert await whole.live.wait_value(lambda state: state.spent["usd"] >= 4) == whole.live.value
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [
        BudgetState({"usd": 0}, {"usd": 0}, {"usd": 10}),
        BudgetState({"usd": 0}, {"usd": 4}, {"usd": 6}),
        BudgetState({"usd": 4}, {"usd": 0}, {"usd": 6}),
    ]
    assert part.live.value == BudgetState({"calls": 1}, {"calls": 0}, {"calls": 1})


def test_what_is_read_is_a_copy():
    budget = Budget({"usd": 10})
    for mapping in (budget.spent, budget.reserved, budget.remaining, budget.live.value.spent):
        mapping["usd"] = 5
    assert budget.live.value == BudgetState({"usd": 0}, {"usd": 0}, {"usd": 10})
    assert "usd 0 spent and 0 reserved of 10" in repr(budget)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Budget({"usd": -1}), r"limits\['usd'\] must be 0 or more, got -1"),
        (lambda: Budget({"usd": math.inf}), r"limits\['usd'\] must be 0 or more, got inf"),
        (lambda: Budget({"usd": True}), "must be 0 or more, got True"),
        (lambda: Budget({"": 1}), "unit must be a non-empty string"),
        (lambda: Budget({3: 1}), "unit must be a non-empty string"),
        (lambda: Budget(10), "limits must be a mapping of units to amounts"),
        (lambda: Budget({"usd": 1}, parent={"usd": 1}), "parent must be a Budget or None"),
        (lambda: Budget({"usd": 1}, spent={"eur": 1}), "unit must be one that the budget or an ancestor limits: 'usd', got 'eur'"),
        (lambda: Budget({}, parent=Budget({"usd": 1}), spent={"usd": 1}), "got 'usd'"),
        (lambda: Budget({"usd": 1}, spent={"usd": math.nan}), r"spent\['usd'\] must be 0 or more, got nan"),
        (lambda: Budget({"usd": 1}).reserve(eur=1), "ancestor limits: 'usd', got 'eur'"),
        (lambda: Budget({}).reserve(eur=1), "ancestor limits: none, got 'eur'"),
        (lambda: Budget({"usd": 1}).reserve(usd=-1), r"amounts\['usd'\] must be 0 or more"),
        (lambda: Budget({"usd": 1}).reserve(usd="1"), "must be 0 or more, got '1'"),
        (lambda: Budget({"usd": 1}).reserve(usd=math.nan), "must be 0 or more, got nan"),
    ],
)
def test_bad_amounts_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("actual", [{"eur": 1}, {"usd": -1}, {"usd": math.nan}, {"usd": "1"}])
def test_settling_refuses_bad_amounts_and_keeps_what_was_said(actual):
    budget = Budget({"usd": 10})
    with budget.reserve(usd=1) as held:
        held.settle(usd=2)
        with pytest.raises(ConfigError):
            held.settle(**actual)
    assert budget.spent == {"usd": 2}


def test_a_budget_cannot_be_its_own_ancestor():
    whole = Budget({"usd": 1})
    part = Budget({"usd": 1}, parent=whole)
    for parent in (whole, part):
        with pytest.raises(ConfigError, match="parent must be a budget of which this one is not an ancestor"):
            whole.__init__({"usd": 1}, parent=parent)


# with_budget


async def ask(prompt, *, size=1):
    await trio.sleep(1)
    if prompt == "fail":
        raise OSError
    return {"cost": size / 2}


async def test_a_call_reserves_its_estimate_and_spends_what_it_was(autojump_clock):
    budget = Budget({"usd": 10})
    call = with_budget(ask, budget, estimate=lambda prompt, *, size: {"usd": size}, actual=lambda answer: {"usd": answer["cost"]})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: call("hello", size=4))
        await wait_all_tasks_blocked()
        assert budget.reserved == {"usd": 4}
    assert budget.spent == {"usd": 2}
    with pytest.raises(OSError):
        await call("fail", size=4)
    assert budget.spent == {"usd": 6}
    with trio.move_on_after(0.5):
        await call("hello", size=1)
    assert budget.spent == {"usd": 7}
    with pytest.raises(BudgetExceededError):
        await call("hello", size=4)
    assert budget.live.value == BudgetState({"usd": 7}, {"usd": 0}, {"usd": 3})
    assert call.__name__ == "ask"


async def test_an_estimate_may_be_the_same_for_all_calls_and_actual_may_name_more(autojump_clock):
    budget = Budget({"usd": 2, "calls": 10})
    amounts = {"usd": 1}
    call = with_budget(ask, budget, estimate=amounts, actual=lambda answer: {"calls": 1})
    amounts["usd"] = 1000
    await call("a")
    await call("b")
    assert budget.spent == {"usd": 2, "calls": 2}


async def test_an_estimate_that_is_changed_afterwards_changes_nothing(autojump_clock):
    budget = Budget({"usd": 10})
    shared = {}

    def estimate(prompt):
        shared["usd"] = len(prompt)
        return shared

    async with trio.open_nursery() as nursery:
        for prompt in ("a", "bbb"):
            nursery.start_soon(with_budget(ask, budget, estimate=estimate), prompt)
    assert budget.live.value == BudgetState({"usd": 4}, {"usd": 0}, {"usd": 6})


async def test_a_fan_out_ends_with_an_exact_account(autojump_clock):
    budget = Budget({"usd": 10})
    call = with_budget(ask, budget, estimate={"usd": 3})
    result = await process_parallel(
        ["x"] * 8, call, config=ParallelConfig(max_workers=8, fail_fast=False, observer="noop")
    )
    assert len(result.results) == 3
    assert {type(failure.error) for failure in result.errors} == {BudgetExceededError}
    assert budget.spent == {"usd": 9}
    assert budget.reserved == {"usd": 0}


async def test_each_attempt_reserves(autojump_clock):
    budget = Budget({"usd": 10})
    call = with_retry(with_budget(ask, budget, estimate={"usd": 1}), RetryConfig(max_attempts=4), on=OSError)
    with pytest.raises(OSError):
        await call("fail")
    assert budget.spent == {"usd": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": print}, "fn must be an async function"),
        ({"budget": {"usd": 1}}, "budget must be a Budget"),
        ({"estimate": {"eur": 1}}, "got 'eur'"),
        ({"estimate": 3}, "estimate must be a mapping of units to amounts, got 3"),
        ({"estimate": ask}, "estimate must be a plain function"),
        ({"actual": ask}, "actual must be a plain function"),
        ({"actual": {"usd": 1}}, "actual must be a plain function"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    given = {"fn": ask, "budget": Budget({"usd": 1}), "estimate": {"usd": 1}} | arguments
    with pytest.raises(ConfigError, match=message):
        with_budget(given.pop("fn"), given.pop("budget"), **given)


async def test_functions_that_give_no_amounts_are_refused_at_the_call(autojump_clock):
    budget = Budget({"usd": 3})
    with pytest.raises(ConfigError, match="estimate must be a mapping"):
        await with_budget(ask, budget, estimate=lambda prompt: 1)("a")
    assert budget.spent == budget.reserved == {"usd": 0}
    with pytest.raises(ConfigError, match="actual must be a mapping"):
        await with_budget(ask, budget, estimate={"usd": 1}, actual=lambda answer: 1)("a")
    assert budget.spent == {"usd": 1}


# The property: whatever runs when, spent + reserved stays within the limit by the estimates.

amounts = st.floats(0, 4) | st.integers(0, 4)
calls = st.lists(
    st.tuples(
        st.integers(0, 2),  # which budget
        amounts,  # the estimate
        st.none() | amounts,  # what it was
        st.integers(0, 3),  # checkpoints on the way
        st.sampled_from(["returns", "fails", "is cancelled"]),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(calls, st.integers(0, 12), st.floats(0, 12))
def test_no_schedule_spends_more_than_was_estimated(calls, whole_limit, part_limit):
    whole = Budget({"usd": whole_limit})
    part = Budget({"usd": part_limit}, parent=whole)
    free = Budget({}, parent=whole)
    budgets = (whole, part, free)
    under = dict.fromkeys(budgets, 0.0)  # by how much calls cost more than they had reserved
    cost = dict.fromkeys(budgets, 0.0)
    refused = []

    def check():
        for budget, limit in ((whole, whole_limit), (part, part_limit)):
            used = budget.spent["usd"] + budget.reserved["usd"]
            assert used <= limit + under[budget] + 1e-6
            assert budget.remaining["usd"] == pytest.approx(limit - used)
        assert whole.reserved["usd"] >= part.reserved["usd"] - 1e-9

    def book(which, spent, estimate):
        for budget in {which, whole}:
            cost[budget] += spent
            under[budget] += max(0, spent - estimate)

    async def call(which, estimate, actual, turns, end):
        budget = budgets[which]
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope = trio.CancelScope()
        try:
            with scope, budget.reserve(usd=estimate) as held:
                check()
                if end == "is cancelled":
                    scope.cancel()
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                if actual is not None:
                    held.settle(usd=actual)
                spent = estimate if actual is None else actual
                book(budget, spent, estimate)
                if end == "fails":
                    raise OSError
        except BudgetExceededError as error:
            assert error.spent + error.reserved + error.asked > error.limit
            refused.append(error)
        except OSError:
            pass
        if scope.cancelled_caught:
            book(budget, estimate, estimate)
        check()

    async def main():
        async with trio.open_nursery() as nursery:
            for one in calls:
                nursery.start_soon(call, *one)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for budget in (whole, part):
        assert budget.reserved == {"usd": 0}
        assert budget.spent["usd"] == pytest.approx(cost[budget])
