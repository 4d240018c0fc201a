"""What type checkers infer for users; checked by mypy and pyright, and run like any test."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

import pytest
import trio

from trioflow import (
    Budget,
    BudgetState,
    FailedItems,
    LiveValue,
    NoopObserver,
    ParallelConfig,
    ParallelError,
    ParallelResult,
    ParallelRun,
    Progress,
    RateLimiter,
    RetryConfig,
    TaskError,
    TaskOutcome,
    WorkQueue,
    load_config,
    merge,
    open_parallel,
    process_parallel,
    with_budget,
    with_concurrency_limit,
    with_rate_limit,
    with_retry,
    with_timeout,
)


async def length(text: str) -> int:
    return len(text)


async def words() -> AsyncIterator[str]:
    yield "one"
    yield "two"


async def test_a_result_knows_items_and_results() -> None:
    result = await process_parallel(["a", "bb"], length, observer=NoopObserver())
    assert_type(result, ParallelResult[str, int])
    assert_type(result.results, list[int])
    assert_type(result.errors, list[TaskError[str]])
    assert_type((await process_parallel(words(), length)).results, list[int])


async def test_a_stream_knows_its_outcomes() -> None:
    async with open_parallel(["a"], length, observer=NoopObserver()) as run:
        assert_type(run, ParallelRun[str, int])
        assert_type(run.progress, LiveValue[Progress])
        assert_type(run.progress.value, Progress)
        async for outcome in run:
            assert_type(outcome, TaskOutcome[str, int])
            assert_type(outcome.unwrap(), int)
            assert_type(outcome.result, int | None)
        assert_type(run.result(), ParallelResult[str, int])


async def test_progress_gets_the_result_type() -> None:
    def show(completed: int, total: int | None, result: int) -> None:
        assert_type(result, int)

    await process_parallel(["a"], length, progress=show, observer=NoopObserver())


async def test_on_outcome_gets_items_and_results() -> None:
    def show(outcome: TaskOutcome[str, int]) -> None:
        assert_type(outcome.unwrap(), int)

    result = await process_parallel(["a"], length, on_outcome=show, observer=NoopObserver())
    assert_type(result.outcomes(), list[TaskOutcome[str, int]])
    assert_type(result.failed_items(), FailedItems[str])
    assert_type((await process_parallel(result.failed_items(), length)).results, list[int])


async def test_a_queue_knows_its_items() -> None:
    queue = WorkQueue(["a"], dedupe=len)
    assert_type(queue, WorkQueue[str])
    assert_type(queue.put("bb"), bool)
    assert_type(await process_parallel(queue, length, observer=NoopObserver()), ParallelResult[str, int])
    async with open_parallel(WorkQueue(["a"]), length, observer=NoopObserver()) as run:
        async for outcome in run:
            assert_type(outcome, TaskOutcome[str, int])


async def test_policies_keep_the_signature() -> None:
    assert_type(await with_timeout(length, 1)(text="abc"), int)
    retried = with_retry(with_rate_limit(length, RateLimiter(1000, burst=9), cost=len), RetryConfig())
    assert_type(await retried("abc"), int)
    assert_type(await with_retry(length, on=lambda error: error.__traceback__ is None)("abc"), int)
    assert_type(await with_retry(length, on=(OSError, KeyError))("abc"), int)
    assert_type(await with_concurrency_limit(length, trio.CapacityLimiter(1))(text="abc"), int)
    assert_type(await with_concurrency_limit(length, lambda text: trio.CapacityLimiter(len(text)))("abc"), int)


async def test_a_budget_keeps_the_signature_and_knows_the_result() -> None:
    budget = Budget({"tokens": 100})
    frugal = with_budget(length, budget, estimate={"tokens": 9}, actual=lambda result: {"tokens": result + 0.5})
    assert_type(await frugal(text="abc"), int)
    assert_type(budget.live, LiveValue[BudgetState])
    assert_type(budget.spent["tokens"], float)


async def test_a_parallel_error_is_a_group_of_exceptions() -> None:
    async def fail(item: int) -> int:
        raise ValueError(item)

    with pytest.raises(ParallelError) as caught:
        await process_parallel([1], fail, observer=NoopObserver())
    assert_type(caught.value.errors, list[TaskError[Any]])
    assert_type(caught.value.exceptions[0], Exception | ExceptionGroup[Exception])


def test_config_functions_keep_the_struct_type() -> None:
    assert_type(load_config(b"{}", ParallelConfig), ParallelConfig)
    assert_type(merge(ParallelConfig(), {}), ParallelConfig)
