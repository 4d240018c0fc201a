"""The structs that say what became of items."""

import gc

import msgspec
import pytest

from trioflow import ParallelResult, Progress, TaskError, TaskOutcome


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
        b'{"results":[1],"indices":[0],"errors":[],"unfinished":[1],"total":2}'
    )


def test_a_result_counts_its_failures_by_message():
    errors = [TaskError(index, None, ValueError("busy"), 1) for index in (4, 2)]
    report = ParallelResult([], [], errors, [], 9).report
    assert (report.failed, report.total) == (2, 9)
    assert [(c.message, c.count, c.first_index) for c in report.categories] == [("busy", 2, 2)]
    assert ParallelResult([], [], [], [], 0).report.categories == []
