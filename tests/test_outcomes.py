"""The structs that say what became of items."""

import gc
import pickle

import msgspec
import pytest
import trio

from trioflow import (
    ChainError,
    ChainResult,
    ConditionalError,
    ErrorCategory,
    ErrorReport,
    ExecutionError,
    FailedItems,
    GraphResult,
    GraphStep,
    Indexes,
    ParallelConfig,
    ParallelError,
    ParallelResult,
    Progress,
    TaskError,
    TaskOutcome,
    process_parallel,
)

QUIET = ParallelConfig(fail_fast=False, observer="noop")


def test_unwrap_gives_the_result_or_raises_the_error_itself():
    assert TaskOutcome(0, "a", 7, None, 1, 0.1).unwrap() == 7
    error = ValueError("boom")
    failed = TaskOutcome(0, "a", None, error, 1, 0.1)
    assert not failed.ok
    with pytest.raises(ValueError, match="boom") as caught:
        failed.unwrap()
    assert caught.value is error


def test_unwrap_leaves_no_reference_cycle():
    gc.collect()
    gc.disable()
    try:
        outcome = TaskOutcome(0, "a", None, ValueError("boom"), 1, 0.1)
        try:
            outcome.unwrap()
        except ValueError:
            pass
        del outcome
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "struct",
    [
        TaskError(1, "a", ValueError(), 2),
        TaskOutcome(0, "a", 7, None, 1, 0.1),
        ParallelResult([], [], [], [], 0),
        Progress(1, 2, 3),
    ],
)
def test_outcomes_are_frozen(struct):
    with pytest.raises(AttributeError):
        setattr(struct, struct.__struct_fields__[0], 9)


def test_outcomes_take_keywords_and_a_result_encodes():
    assert TaskError(index=1, item="a", error=ValueError(), attempts=2).index == 1
    assert msgspec.json.encode(ParallelResult([1], [0], [], [1], 2)) == (
        b'{"results":[1],"indices":[0],"errors":[],"unfinished":[1],"total":2,"status":"complete"}'
    )


def test_a_result_counts_its_failures_by_message():
    errors = [TaskError(index, None, ValueError("busy"), 1) for index in (4, 2)]
    report = ParallelResult([], [], errors, [], 9).report
    assert (report.failed, report.total) == (2, 9)
    assert [(c.message, c.count, c.first_index) for c in report.categories] == [("busy", 2, 2)]
    assert ParallelResult([], [], [], [], 0).report.categories == []


def test_done_is_what_has_an_outcome():
    assert Progress(3, 2, None).done == 5


async def halve_even(item):
    await trio.lowlevel.checkpoint()
    if item % 2:
        raise ValueError(item)
    return item // 2


async def test_outcomes_are_those_of_all_items_in_item_order():
    result = await process_parallel([4, 1, 6, 3], halve_even, config=QUIET)
    outcomes = result.outcomes()
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.result for outcome in outcomes] == [2, None, 3, None]
    assert [outcome.item for outcome in outcomes] == [None, 1, None, 3]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), ValueError, type(None), ValueError]
    assert [outcome.attempts for outcome in outcomes] == [0, 1, 0, 1]
    assert ParallelResult([], [], [], [0, 1], 2).outcomes() == []


async def test_failed_items_go_into_another_round_that_leads_back_to_the_first():
    result = await process_parallel([4, 1, 6, 3], halve_even, config=QUIET)
    again = result.failed_items()
    for same in ([1, 3], (1, 3), FailedItems([1, 3], [7, 8])):
        assert again == same
    assert again != [1]
    assert again != {1, 3}
    assert list(again.indices) == [1, 3]
    assert again[1] == 3
    assert again[-1:] == [3]
    assert again[-1:].indices == (3,)
    seen = []

    async def repair(item):
        await trio.lowlevel.checkpoint()
        return item * 10

    second = await process_parallel(
        again, repair, config=QUIET, progress=lambda completed, total, result: seen.append(total)
    )
    assert seen == [2, 2]
    assert {again.indices[k]: value for k, value in zip(second.indices, second.results, strict=True)} == {1: 10, 3: 30}


async def test_an_item_that_nobody_has_is_no_item_of_another_round(autojump_clock):
    async def never():
        yield None
        await trio.sleep_forever()

    config = ParallelConfig(fail_fast=False, timeout=1, observer="noop", raise_if_all_failed=False)
    result = await process_parallel(never(), lambda item: trio.sleep_forever(), config=config)
    assert [error.index for error in result.errors] == [0, 1]
    assert result.failed_items().indices == (0,)
    assert result.failed_items() == [None]


SECRET = "secret \n" * 1000
BRIEF = [
    (TaskError(5, SECRET, ValueError(SECRET), 3), "<TaskError of item 5: ValueError, attempts 3>"),
    (TaskOutcome(5, SECRET, SECRET, None, 1, 0.25), "<TaskOutcome of item 5: ok, attempts 1, 0.25 s>"),
    (TaskOutcome(5, SECRET, None, KeyError(SECRET), 1, 2), "<TaskOutcome of item 5: KeyError, attempts 1, 2 s>"),
    (
        ParallelResult([SECRET], [1], [TaskError(0, SECRET, ValueError(SECRET), 3)], [2, 3], 4, "drained"),
        "<ParallelResult: drained, 1 ok, 1 failed, 2 unfinished of 4>",
    ),
    (FailedItems([SECRET], [3]), "<FailedItems: 1>"),
    (ErrorCategory(SECRET, "ValueError", 3, 1), "<ErrorCategory: 3 failed with ValueError first, item 1 the first>"),
    (ErrorReport(4, 9, [ErrorCategory(SECRET, "X", 4, 1)]), "<ErrorReport: 4 of 9 failed, 1 messages>"),
    (ChainResult(SECRET, [SECRET], 2), "<ChainResult: 2 steps>"),
    (GraphStep("draft", 3, SECRET), "<GraphStep 3: node 'draft'>"),
    (
        GraphResult(SECRET, "r", "completed", "out", ["out"], 1),
        "<GraphResult of run 'r': completed at 'out', 1 iterations>",
    ),
    (GraphResult(SECRET, "r", "paused", None, [], 1, SECRET), "<GraphResult of run 'r': paused, 1 iterations>"),
    (
        ParallelError(
            [TaskError(0, SECRET, ValueError(SECRET), 1), TaskError(1, SECRET, OSError(SECRET), 1)],
            ParallelResult([], [], [], [], 9),
        ),
        "<ParallelError: 2 of 9 items failed: ValueError (1), OSError (1)>",
    ),
    (ChainError(3, SECRET, SECRET), "ChainError('chain failed at step 3: no cause is known')"),
    (ConditionalError("x", SECRET), "ConditionalError(\"conditional routing failed for route 'x': no cause is known\")"),
    (ExecutionError("n", SECRET, ["n"], "r"), "ExecutionError('execution failed at node n: no cause is known')"),
]


@pytest.mark.parametrize(("value", "text"), BRIEF, ids=[type(value).__name__ for value, _ in BRIEF])
def test_a_repr_is_short_and_shows_no_item_result_state_or_message(value, text):
    rich = pytest.importorskip("rich.pretty")
    assert repr(value) == text
    assert "secret" not in rich.pretty_repr(value)


INDEXES = [[], [0], [3], [0, 1, 2], [1, 2, 5], [0, 2, 4, 5, 6, 9]]


@pytest.mark.parametrize("rest", [range(0), range(10, 14), range(20, 21)])
@pytest.mark.parametrize("indexes", INDEXES)
def test_indexes_are_what_a_list_of_them_is(indexes, rest):
    expected = [*indexes, *rest]
    kept = Indexes(indexes, rest)
    assert kept == expected
    assert expected == kept
    assert kept == Indexes(expected)
    assert list(kept) == [kept[place] for place in range(len(kept))] == expected
    assert [kept[-place] for place in range(1, len(kept) + 1)] == expected[::-1]
    assert kept[1:4] == expected[1:4]
    assert kept[::-2] == expected[::-2]
    before, after = [7], [70]
    assert before + kept == [*before, *expected]
    assert kept + after == [*expected, *after]
    assert bool(kept) == bool(expected)
    assert [number for number in range(25) if number in kept] == expected
    assert kept != [*expected, 99]
    assert pickle.loads(pickle.dumps(kept)) == kept
    with pytest.raises(IndexError):
        kept[len(expected)]


def test_indexes_are_shown_as_ranges_and_a_few_of_them():
    assert repr(Indexes([0, 1, 2, 5], range(7, 10))) == "<Indexes 0 to 2, 5, 7 to 9>"
    assert repr(Indexes()) == "<Indexes of nothing>"
    assert repr(Indexes(range(0, 40, 2))).endswith("16, 18, …>")
